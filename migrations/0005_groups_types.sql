-- Groups and group snapshots, transfers, and the rest of volume types: QoS specs, encryption,
-- default types of projects.

ALTER TABLE volumes ADD COLUMN group_id CHAR(36);
CREATE INDEX volumes_by_group ON volumes (group_id, deleted_at);
ALTER TABLE snapshots ADD COLUMN group_snapshot_id CHAR(36);
CREATE INDEX snapshots_by_group_snapshot ON snapshots (group_snapshot_id, deleted_at);

CREATE TABLE volume_transfers (
    id CHAR(36) NOT NULL PRIMARY KEY,
    volume_id CHAR(36) NOT NULL,
    name VARCHAR(255),
    -- The key itself is shown once and kept nowhere.
    salt VARCHAR(255) NOT NULL,
    key_hash VARCHAR(255) NOT NULL,
    no_snapshots SMALLINT NOT NULL,
    source_project_id VARCHAR(255) NOT NULL,
    destination_project_id VARCHAR(255),
    accepted SMALLINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT,
    deleted_at BIGINT
);
CREATE INDEX volume_transfers_by_project ON volume_transfers (source_project_id, deleted_at, created_at, id);
CREATE INDEX volume_transfers_by_volume ON volume_transfers (volume_id, deleted_at);

CREATE TABLE qos_specs (
    id CHAR(36) NOT NULL PRIMARY KEY,
    name VARCHAR(255) NOT NULL,
    live_name VARCHAR(255) UNIQUE,
    consumer VARCHAR(16) NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT,
    deleted_at BIGINT
);
CREATE TABLE qos_spec_entries (
    qos_specs_id CHAR(36) NOT NULL,
    meta_key VARCHAR(255) NOT NULL,
    meta_value VARCHAR(255) NOT NULL,
    PRIMARY KEY (qos_specs_id, meta_key)
);
ALTER TABLE volume_types ADD COLUMN qos_specs_id CHAR(36);
CREATE INDEX volume_types_by_qos ON volume_types (qos_specs_id, deleted_at);

CREATE TABLE volume_type_encryption (
    volume_type_id CHAR(36) NOT NULL PRIMARY KEY,
    id CHAR(36) NOT NULL,
    provider VARCHAR(255) NOT NULL,
    control_location VARCHAR(16) NOT NULL,
    cipher VARCHAR(255),
    key_size BIGINT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT
);

CREATE TABLE project_default_types (
    project_id VARCHAR(255) NOT NULL PRIMARY KEY,
    volume_type_id CHAR(36) NOT NULL
);
CREATE INDEX project_default_types_by_type ON project_default_types (volume_type_id);

CREATE TABLE group_types (
    id CHAR(36) NOT NULL PRIMARY KEY,
    name VARCHAR(255) NOT NULL,
    live_name VARCHAR(255) UNIQUE,
    description VARCHAR(255),
    is_public SMALLINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT,
    deleted_at BIGINT
);
CREATE TABLE group_type_specs (
    group_type_id CHAR(36) NOT NULL,
    meta_key VARCHAR(255) NOT NULL,
    meta_value VARCHAR(255) NOT NULL,
    PRIMARY KEY (group_type_id, meta_key)
);

CREATE TABLE volume_groups (
    id CHAR(36) NOT NULL PRIMARY KEY,
    user_id VARCHAR(255) NOT NULL,
    project_id VARCHAR(255) NOT NULL,
    name VARCHAR(255),
    description VARCHAR(255),
    status VARCHAR(32) NOT NULL,
    availability_zone VARCHAR(255) NOT NULL,
    host VARCHAR(255),
    group_type_id CHAR(36) NOT NULL,
    group_snapshot_id CHAR(36),
    source_group_id CHAR(36),
    replication_status VARCHAR(32) NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT,
    deleted_at BIGINT
);
CREATE INDEX volume_groups_by_project ON volume_groups (project_id, deleted_at, created_at, id);
CREATE INDEX volume_groups_by_age ON volume_groups (deleted_at, created_at, id);
CREATE INDEX volume_groups_by_type ON volume_groups (group_type_id, deleted_at);
CREATE TABLE group_volume_types (
    group_id CHAR(36) NOT NULL,
    volume_type_id CHAR(36) NOT NULL,
    PRIMARY KEY (group_id, volume_type_id)
);

CREATE TABLE group_snapshots (
    id CHAR(36) NOT NULL PRIMARY KEY,
    user_id VARCHAR(255) NOT NULL,
    project_id VARCHAR(255) NOT NULL,
    group_id CHAR(36) NOT NULL,
    group_type_id CHAR(36) NOT NULL,
    name VARCHAR(255),
    description VARCHAR(255),
    status VARCHAR(32) NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT,
    deleted_at BIGINT
);
CREATE INDEX group_snapshots_by_project ON group_snapshots (project_id, deleted_at, created_at, id);
CREATE INDEX group_snapshots_by_group ON group_snapshots (group_id, deleted_at);
