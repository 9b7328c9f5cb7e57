-- A volume that is being extended counts with the size it will have, so that two extends at once
-- cannot pass the quota together. NULL while no extend runs.
ALTER TABLE volumes ADD COLUMN extend_to_gib BIGINT;
DROP INDEX volumes_quota;
CREATE INDEX volumes_quota ON volumes (project_id, deleted_at, consumes_quota, volume_type_id, size_gib, extend_to_gib);
