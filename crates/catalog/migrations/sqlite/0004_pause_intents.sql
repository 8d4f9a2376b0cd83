-- Written before the first application is asked to pause, closed when all have acknowledged that they go on. What is
-- open at a start was left by a server that died: these instances are unpaused before anything else.
CREATE TABLE pause_intent (
    intent_id   TEXT   NOT NULL PRIMARY KEY,
    job_id      TEXT   NOT NULL REFERENCES job (job_id),
    instances   TEXT   NOT NULL,
    deadline_at BIGINT NOT NULL,
    created_at  BIGINT NOT NULL,
    closed      INT    NOT NULL
);
CREATE INDEX idx_pause_intent_closed ON pause_intent (closed, created_at);
