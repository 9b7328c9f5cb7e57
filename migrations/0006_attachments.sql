-- Who has which volume attached. A row goes when its attachment is deleted.
CREATE TABLE volume_attachments (
    id CHAR(36) NOT NULL PRIMARY KEY,
    volume_id CHAR(36) NOT NULL,
    instance_id CHAR(36),
    attached_host VARCHAR(255),
    mountpoint VARCHAR(255),
    attach_status VARCHAR(32) NOT NULL,
    attach_mode VARCHAR(16) NOT NULL,
    -- JSON: what the client told of its host; NULL until it did.
    connector TEXT,
    -- JSON: what the client was told of the volume; NULL until it was.
    connection_info TEXT,
    attached_at BIGINT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT
);
CREATE INDEX volume_attachments_by_volume ON volume_attachments (volume_id, attach_status);
CREATE INDEX volume_attachments_by_instance ON volume_attachments (instance_id);
CREATE INDEX volume_attachments_by_age ON volume_attachments (created_at, id);

-- What may be opened over NBD: the name holds a secret that only the attachment's owner was told.
CREATE TABLE volume_exports (
    name VARCHAR(255) NOT NULL PRIMARY KEY,
    volume_id CHAR(36) NOT NULL,
    -- NULL: a connection that was initialized without an attachment.
    attachment_id CHAR(36),
    client_host VARCHAR(255) NOT NULL,
    read_only SMALLINT NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE INDEX volume_exports_by_volume ON volume_exports (volume_id, client_host);
CREATE INDEX volume_exports_by_attachment ON volume_exports (attachment_id);

-- How clients reach the images of a pool (host@backend#pool), as its manager reports it: JSON.
CREATE TABLE volume_connections (
    pool_name VARCHAR(255) NOT NULL PRIMARY KEY,
    connection TEXT NOT NULL,
    reported_at BIGINT NOT NULL
);
