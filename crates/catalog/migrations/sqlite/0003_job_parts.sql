-- The state of a job of many nodes is stored node by node, so that what one node brings does not rewrite the others.
CREATE TABLE job_part (
    job_id TEXT NOT NULL REFERENCES job (job_id),
    name   TEXT NOT NULL,
    state  TEXT NOT NULL,
    PRIMARY KEY (job_id, name)
);
