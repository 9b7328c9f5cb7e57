-- Block storage: volumes, snapshots, backups, types, quotas, services, messages.
-- Times are microseconds since the epoch; booleans 0 and 1; deleted_at is NULL while a row lives.

CREATE TABLE volumes (
    id CHAR(36) NOT NULL PRIMARY KEY,
    user_id VARCHAR(255) NOT NULL,
    project_id VARCHAR(255) NOT NULL,
    name VARCHAR(255),
    description VARCHAR(255),
    status VARCHAR(32) NOT NULL,
    previous_status VARCHAR(32),
    attach_status VARCHAR(32) NOT NULL,
    migration_status VARCHAR(64),
    size_gib BIGINT NOT NULL,
    availability_zone VARCHAR(255) NOT NULL,
    host VARCHAR(255),
    service_uuid CHAR(36),
    volume_type_id CHAR(36) NOT NULL,
    snapshot_id CHAR(36),
    source_volid CHAR(36),
    bootable SMALLINT NOT NULL,
    multiattach SMALLINT NOT NULL,
    readonly SMALLINT,
    replication_status VARCHAR(32),
    provider_id VARCHAR(255),
    consumes_quota SMALLINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT,
    scheduled_at BIGINT,
    launched_at BIGINT,
    terminated_at BIGINT,
    deleted_at BIGINT
);
CREATE INDEX volumes_by_project ON volumes (project_id, deleted_at, created_at, id);
CREATE INDEX volumes_by_age ON volumes (deleted_at, created_at, id);
CREATE INDEX volumes_quota ON volumes (project_id, deleted_at, consumes_quota, volume_type_id, size_gib);
CREATE INDEX volumes_by_type ON volumes (volume_type_id, deleted_at);
CREATE INDEX volumes_by_host ON volumes (host, deleted_at, size_gib);

CREATE TABLE volume_metadata (
    volume_id CHAR(36) NOT NULL,
    meta_key VARCHAR(255) NOT NULL,
    meta_value VARCHAR(255) NOT NULL,
    PRIMARY KEY (volume_id, meta_key)
);
CREATE TABLE volume_image_metadata (
    volume_id CHAR(36) NOT NULL,
    meta_key VARCHAR(255) NOT NULL,
    meta_value TEXT NOT NULL,
    PRIMARY KEY (volume_id, meta_key)
);

CREATE TABLE snapshots (
    id CHAR(36) NOT NULL PRIMARY KEY,
    user_id VARCHAR(255) NOT NULL,
    project_id VARCHAR(255) NOT NULL,
    volume_id CHAR(36) NOT NULL,
    name VARCHAR(255),
    description VARCHAR(255),
    status VARCHAR(32) NOT NULL,
    progress VARCHAR(32),
    size_gib BIGINT NOT NULL,
    volume_type_id CHAR(36) NOT NULL,
    consumes_quota SMALLINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT,
    deleted_at BIGINT
);
CREATE INDEX snapshots_by_project ON snapshots (project_id, deleted_at, created_at, id);
CREATE INDEX snapshots_by_age ON snapshots (deleted_at, created_at, id);
CREATE INDEX snapshots_by_volume ON snapshots (volume_id, deleted_at, created_at);
CREATE INDEX snapshots_quota ON snapshots (project_id, deleted_at, consumes_quota, volume_type_id, size_gib);

CREATE TABLE snapshot_metadata (
    snapshot_id CHAR(36) NOT NULL,
    meta_key VARCHAR(255) NOT NULL,
    meta_value VARCHAR(255) NOT NULL,
    PRIMARY KEY (snapshot_id, meta_key)
);
CREATE TABLE snapshot_image_metadata (
    snapshot_id CHAR(36) NOT NULL,
    meta_key VARCHAR(255) NOT NULL,
    meta_value TEXT NOT NULL,
    PRIMARY KEY (snapshot_id, meta_key)
);

CREATE TABLE backups (
    id CHAR(36) NOT NULL PRIMARY KEY,
    user_id VARCHAR(255) NOT NULL,
    project_id VARCHAR(255) NOT NULL,
    volume_id CHAR(36) NOT NULL,
    snapshot_id CHAR(36),
    parent_id CHAR(36),
    name VARCHAR(255),
    description VARCHAR(255),
    status VARCHAR(32) NOT NULL,
    fail_reason VARCHAR(255),
    size_gib BIGINT NOT NULL,
    object_count BIGINT NOT NULL,
    container VARCHAR(255),
    availability_zone VARCHAR(255),
    host VARCHAR(255),
    service_metadata TEXT,
    restore_volume_id CHAR(36),
    data_timestamp BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT,
    deleted_at BIGINT
);
CREATE INDEX backups_by_project ON backups (project_id, deleted_at, created_at, id);
CREATE INDEX backups_by_age ON backups (deleted_at, created_at, id);
CREATE INDEX backups_by_volume ON backups (volume_id, deleted_at, data_timestamp);
CREATE INDEX backups_by_parent ON backups (parent_id, deleted_at);
CREATE INDEX backups_by_snapshot ON backups (snapshot_id, deleted_at);
CREATE INDEX backups_quota ON backups (project_id, deleted_at, size_gib);

CREATE TABLE backup_metadata (
    backup_id CHAR(36) NOT NULL,
    meta_key VARCHAR(255) NOT NULL,
    meta_value VARCHAR(255) NOT NULL,
    PRIMARY KEY (backup_id, meta_key)
);

-- live_name is the name while the type lives and NULL afterwards: a name can be used again.
CREATE TABLE volume_types (
    id CHAR(36) NOT NULL PRIMARY KEY,
    name VARCHAR(255) NOT NULL,
    live_name VARCHAR(255) UNIQUE,
    description VARCHAR(255),
    is_public SMALLINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT,
    deleted_at BIGINT
);
CREATE TABLE volume_type_extra_specs (
    volume_type_id CHAR(36) NOT NULL,
    spec_key VARCHAR(255) NOT NULL,
    spec_value VARCHAR(255) NOT NULL,
    PRIMARY KEY (volume_type_id, spec_key)
);
CREATE TABLE volume_type_projects (
    volume_type_id CHAR(36) NOT NULL,
    project_id VARCHAR(255) NOT NULL,
    PRIMARY KEY (volume_type_id, project_id)
);

CREATE TABLE quotas (
    project_id VARCHAR(255) NOT NULL,
    resource VARCHAR(255) NOT NULL,
    hard_limit BIGINT NOT NULL,
    PRIMARY KEY (project_id, resource)
);
CREATE TABLE quota_classes (
    class_name VARCHAR(255) NOT NULL,
    resource VARCHAR(255) NOT NULL,
    hard_limit BIGINT NOT NULL,
    PRIMARY KEY (class_name, resource)
);
-- Touched first by every transaction that adds to a project's usage: they run one after another.
CREATE TABLE quota_locks (
    project_id VARCHAR(255) NOT NULL PRIMARY KEY,
    generation BIGINT NOT NULL
);

CREATE TABLE volume_services (
    id CHAR(36) NOT NULL PRIMARY KEY,
    binary_name VARCHAR(64) NOT NULL,
    host VARCHAR(255) NOT NULL,
    availability_zone VARCHAR(255) NOT NULL,
    disabled SMALLINT NOT NULL,
    disabled_reason VARCHAR(255),
    created_at BIGINT NOT NULL,
    heartbeat_at BIGINT NOT NULL,
    UNIQUE (host, binary_name)
);
-- One row per pool (host@backend#pool) with what its manager last reported, as JSON.
CREATE TABLE volume_pools (
    name VARCHAR(255) NOT NULL PRIMARY KEY,
    service_host VARCHAR(255) NOT NULL,
    capabilities TEXT NOT NULL,
    reported_at BIGINT NOT NULL
);

CREATE TABLE volume_messages (
    id CHAR(36) NOT NULL PRIMARY KEY,
    project_id VARCHAR(255) NOT NULL,
    request_id VARCHAR(64),
    resource_type VARCHAR(36) NOT NULL,
    resource_id CHAR(36),
    action_id VARCHAR(10) NOT NULL,
    detail_id VARCHAR(10) NOT NULL,
    level VARCHAR(16) NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX volume_messages_by_project ON volume_messages (project_id, created_at, id);
CREATE INDEX volume_messages_by_expiry ON volume_messages (expires_at);
