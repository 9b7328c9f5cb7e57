-- Several back-ends: what the scheduler knows of a volume beside its row, from the request until
-- the volume is where it belongs; clusters; frozen services.
-- hints is a JSON object; tried a JSON list of pools (host@backend#pool); availability_zones a
-- JSON list, NULL where the volume's own zone counts; new_type_id the type that a retype goes to.
CREATE TABLE volume_placements (
    volume_id CHAR(36) NOT NULL PRIMARY KEY,
    hints TEXT NOT NULL,
    availability_zones TEXT,
    tried TEXT NOT NULL,
    attempts_left BIGINT NOT NULL,
    new_type_id CHAR(36),
    target_host VARCHAR(255)
);
CREATE INDEX volume_placements_by_type ON volume_placements (new_type_id);

ALTER TABLE volume_services ADD COLUMN cluster_name VARCHAR(255);
ALTER TABLE volume_services ADD COLUMN frozen SMALLINT NOT NULL DEFAULT 0;

CREATE TABLE volume_clusters (
    name VARCHAR(255) NOT NULL,
    binary_name VARCHAR(64) NOT NULL,
    disabled SMALLINT NOT NULL,
    disabled_reason VARCHAR(255),
    created_at BIGINT NOT NULL,
    updated_at BIGINT,
    PRIMARY KEY (name, binary_name)
);
