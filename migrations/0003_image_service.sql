-- Image service: images and what belongs to them. Times are microseconds since the epoch.
-- A deleted image keeps its row (its id is never given out again) and loses the rest.

CREATE TABLE images (
    id CHAR(36) NOT NULL PRIMARY KEY,
    name VARCHAR(255),
    status VARCHAR(30) NOT NULL,
    visibility VARCHAR(16) NOT NULL,
    owner VARCHAR(255),
    protected SMALLINT NOT NULL DEFAULT 0,
    os_hidden SMALLINT NOT NULL DEFAULT 0,
    container_format VARCHAR(32),
    disk_format VARCHAR(32),
    min_ram_mib BIGINT NOT NULL DEFAULT 0,
    min_disk_gib BIGINT NOT NULL DEFAULT 0,
    size_bytes BIGINT,
    virtual_size_bytes BIGINT,
    checksum VARCHAR(32),
    os_hash_algo VARCHAR(64),
    os_hash_value VARCHAR(128),
    -- The upload that may write this image's data, while status is saving.
    upload_id CHAR(36),
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    deleted_at BIGINT
);
CREATE INDEX images_live_created ON images (deleted_at, created_at, id);
CREATE INDEX images_live_owner ON images (deleted_at, owner, created_at, id);
CREATE INDEX images_live_visibility ON images (deleted_at, visibility, created_at, id);
CREATE INDEX images_live_name ON images (deleted_at, name);
CREATE INDEX images_live_status ON images (deleted_at, status);

CREATE TABLE image_properties (
    image_id CHAR(36) NOT NULL REFERENCES images (id),
    name VARCHAR(255) NOT NULL,
    value TEXT,
    PRIMARY KEY (image_id, name)
);

CREATE TABLE image_tags (
    image_id CHAR(36) NOT NULL REFERENCES images (id),
    tag VARCHAR(255) NOT NULL,
    PRIMARY KEY (image_id, tag)
);
CREATE INDEX image_tags_tag ON image_tags (tag, image_id);

-- Where an image's data lies; position orders the locations of one image.
CREATE TABLE image_locations (
    image_id CHAR(36) NOT NULL REFERENCES images (id),
    position BIGINT NOT NULL,
    url TEXT NOT NULL,
    metadata TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (image_id, position)
);

-- Projects that a shared image is shared with; status is pending, accepted or rejected.
CREATE TABLE image_members (
    image_id CHAR(36) NOT NULL REFERENCES images (id),
    member VARCHAR(255) NOT NULL,
    status VARCHAR(20) NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (image_id, member)
);
CREATE INDEX image_members_member ON image_members (member, status, image_id);
