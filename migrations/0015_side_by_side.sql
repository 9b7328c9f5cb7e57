-- Which releases can run on the schema: those that know the migration of this number. It stands in
-- the row of the newest migration. Earlier releases do not look.
ALTER TABLE schema_migrations ADD COLUMN works_from BIGINT;
