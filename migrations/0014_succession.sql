-- Who goes on when a process is gone.

-- The workers that serve queues of a group: each says so again and again. Others of the group
-- serve the queues of one that is not seen any more. Microseconds since the epoch.
CREATE TABLE flow_workers (
    owner VARCHAR(255) NOT NULL,
    queue VARCHAR(255) NOT NULL,
    queue_group VARCHAR(255) NOT NULL,
    seen_at BIGINT NOT NULL,
    PRIMARY KEY (owner, queue)
);
CREATE INDEX flow_workers_group ON flow_workers (queue_group, seen_at);

-- The addresses by which clusters know the processes of workers: whoever takes over what a worker
-- held has them shut out first.
CREATE TABLE store_clients (
    owner VARCHAR(255) NOT NULL,
    fsid CHAR(36) NOT NULL,
    addresses VARCHAR(255) NOT NULL,
    PRIMARY KEY (owner, fsid, addresses)
);

-- The store that a backup service writes to: others of the same store can go on with its backups.
ALTER TABLE volume_services ADD COLUMN store_fsid CHAR(36);
