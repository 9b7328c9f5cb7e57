-- Image service: staged data, and the tasks that clients watch imports by.

-- What is known of the data that lies in the staging pool; facts is JSON.
CREATE TABLE image_staging (
    image_id CHAR(36) NOT NULL PRIMARY KEY REFERENCES images (id),
    size_bytes BIGINT NOT NULL,
    facts TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

-- The id of an import's or location's task is the id of its flow. input and result are JSON.
CREATE TABLE image_tasks (
    id CHAR(36) NOT NULL PRIMARY KEY,
    type VARCHAR(30) NOT NULL,
    status VARCHAR(30) NOT NULL,
    owner VARCHAR(255) NOT NULL,
    image_id CHAR(36),
    request_id VARCHAR(64) NOT NULL,
    user_id VARCHAR(255) NOT NULL,
    input TEXT NOT NULL,
    result TEXT,
    message TEXT NOT NULL,
    expires_at BIGINT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX image_tasks_image ON image_tasks (image_id, created_at);
CREATE INDEX image_tasks_created ON image_tasks (created_at, id);
CREATE INDEX image_tasks_expires ON image_tasks (expires_at);
