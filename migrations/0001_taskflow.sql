-- The journal of flows. A flow is unfinished while finished_at is NULL.
CREATE TABLE flows (
    id CHAR(36) NOT NULL PRIMARY KEY,
    -- The order of insertion, which is the order of locks.
    seq BIGINT NOT NULL,
    kind VARCHAR(255) NOT NULL,
    queue VARCHAR(255) NOT NULL,
    state VARCHAR(32) NOT NULL,
    params TEXT NOT NULL,
    resource_type VARCHAR(255) NOT NULL,
    resource_id VARCHAR(255) NOT NULL,
    request_id VARCHAR(255) NOT NULL,
    project_id VARCHAR(255) NOT NULL,
    user_id VARCHAR(255) NOT NULL,
    -- The worker that has the flow, until when, and the fencing token of its claim.
    owner VARCHAR(255),
    lease_until BIGINT,
    generation BIGINT NOT NULL,
    -- JSON: the task that failed and its error, while and after the flow reverts.
    failure TEXT,
    -- Why the flow waits for the operator.
    parked TEXT,
    -- Percent.
    progress SMALLINT NOT NULL,
    not_before BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    finished_at BIGINT
);
CREATE UNIQUE INDEX flows_seq ON flows (seq);
CREATE INDEX flows_claim ON flows (state, queue, seq);
CREATE INDEX flows_finished ON flows (finished_at);
CREATE INDEX flows_resource ON flows (resource_id);

-- One row for each task that was started.
CREATE TABLE flow_atoms (
    flow_id CHAR(36) NOT NULL,
    position BIGINT NOT NULL,
    name VARCHAR(255) NOT NULL,
    state VARCHAR(32) NOT NULL,
    -- JSON; NULL until execute is recorded.
    output TEXT,
    -- JSON: the newest error.
    failure TEXT,
    -- Failed attempts in the present state.
    attempts BIGINT NOT NULL,
    started_at BIGINT NOT NULL,
    finished_at BIGINT,
    PRIMARY KEY (flow_id, position)
);

-- Only of unfinished flows: the end of a flow deletes its rows.
CREATE TABLE flow_locks (
    flow_id CHAR(36) NOT NULL,
    seq BIGINT NOT NULL,
    resource_key VARCHAR(255) NOT NULL,
    exclusive SMALLINT NOT NULL,
    PRIMARY KEY (flow_id, resource_key)
);
CREATE INDEX flow_locks_key ON flow_locks (resource_key, exclusive, seq);
