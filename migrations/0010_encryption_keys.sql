-- Encrypted volumes and their backups name their keys in the key manager.
ALTER TABLE volumes ADD COLUMN encryption_key_id CHAR(36);
ALTER TABLE backups ADD COLUMN encryption_key_id CHAR(36);
