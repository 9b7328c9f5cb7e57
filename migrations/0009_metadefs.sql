-- Image service: metadata definitions. Times are microseconds since the epoch.

CREATE TABLE metadef_namespaces (
    id CHAR(36) NOT NULL PRIMARY KEY,
    namespace VARCHAR(80) NOT NULL UNIQUE,
    display_name VARCHAR(80),
    description TEXT,
    -- public or private
    visibility VARCHAR(16) NOT NULL,
    protected SMALLINT NOT NULL DEFAULT 0,
    owner VARCHAR(255),
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX metadef_namespaces_owner ON metadef_namespaces (owner);

-- Objects, properties and tags of a namespace: kind is object, property or tag, and document is
-- the rest of the definition as JSON.
CREATE TABLE metadef_items (
    namespace_id CHAR(36) NOT NULL REFERENCES metadef_namespaces (id),
    kind VARCHAR(16) NOT NULL,
    name VARCHAR(255) NOT NULL,
    document TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (namespace_id, kind, name)
);

-- What definitions can be for. The first start fills it, and no request empties it.
CREATE TABLE metadef_resource_types (
    name VARCHAR(80) NOT NULL PRIMARY KEY,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);

CREATE TABLE metadef_associations (
    namespace_id CHAR(36) NOT NULL REFERENCES metadef_namespaces (id),
    resource_type VARCHAR(80) NOT NULL REFERENCES metadef_resource_types (name),
    prefix VARCHAR(80),
    properties_target VARCHAR(80),
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (namespace_id, resource_type)
);
CREATE INDEX metadef_associations_type ON metadef_associations (resource_type);

-- A project's row is updated by whoever checks its quotas: one after the other, on every server.
CREATE TABLE image_quota_locks (
    project_id VARCHAR(255) NOT NULL PRIMARY KEY,
    generation BIGINT NOT NULL
);
