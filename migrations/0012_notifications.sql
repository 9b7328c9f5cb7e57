-- Notifications that are still to be delivered. Times are microseconds since the epoch.

CREATE TABLE notifications (
    id CHAR(36) NOT NULL PRIMARY KEY,
    -- The order in which they were written.
    position BIGINT NOT NULL,
    -- The whole notification as JSON.
    body TEXT NOT NULL,
    -- Failed deliveries.
    attempts BIGINT NOT NULL DEFAULT 0,
    -- Who delivers it, and until when nobody else does.
    claim_id CHAR(36),
    claimed_until BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX notifications_position ON notifications (position);
CREATE INDEX notifications_claim ON notifications (claim_id);
