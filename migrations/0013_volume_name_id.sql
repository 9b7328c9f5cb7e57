-- The id in the name of a volume's image, where it is not the volume's own: a migration has made
-- another image, which clients have open under its name.
ALTER TABLE volumes ADD COLUMN name_id CHAR(36);
CREATE INDEX volumes_name_id ON volumes (name_id);
