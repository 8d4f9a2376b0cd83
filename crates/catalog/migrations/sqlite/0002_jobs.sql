-- Who may write: the holder of the lease. epoch grows with every take-over, so that the writes of a
-- server that has been replaced are recognised and refused. The row is never deleted.
CREATE TABLE lease (
    name       TEXT   NOT NULL PRIMARY KEY,
    holder     TEXT   NOT NULL,
    epoch      BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);

-- One row per request that was accepted. state is JSON and belongs to the job's own code.
-- operation_type is the backup_type or restore_type of its history rows.
CREATE TABLE job (
    job_id         TEXT   NOT NULL PRIMARY KEY,
    kind           TEXT   NOT NULL,
    cluster_id     TEXT   NOT NULL,
    snapshot_id    TEXT   NOT NULL,
    operation_type INT    NOT NULL,
    stage          TEXT   NOT NULL,
    state          TEXT   NOT NULL,
    epoch          BIGINT NOT NULL,
    created_at     BIGINT NOT NULL,
    updated_at     BIGINT NOT NULL,
    finished       INT    NOT NULL
);
CREATE INDEX idx_job_finished ON job (finished, created_at);
CREATE INDEX idx_job_cluster ON job (cluster_id, kind);

-- What a job's history rows cannot hold: message and progress of each node.
CREATE TABLE job_node (
    job_id      TEXT   NOT NULL REFERENCES job (job_id),
    target_ip   TEXT   NOT NULL,
    kind        TEXT   NOT NULL,
    cluster_id  TEXT   NOT NULL,
    snapshot_id TEXT   NOT NULL,
    created_at  BIGINT NOT NULL,
    message     TEXT   NOT NULL,
    bytes_done  BIGINT NOT NULL,
    bytes_total BIGINT NOT NULL,
    PRIMARY KEY (job_id, target_ip)
);
CREATE UNIQUE INDEX idx_job_node_history ON job_node (snapshot_id, cluster_id, target_ip, created_at, kind);

-- One sending session of one agent: every object key it draws carries its id.
CREATE TABLE upload_session (
    session_id TEXT   NOT NULL PRIMARY KEY,
    cluster_id TEXT   NOT NULL,
    host_id    TEXT   NOT NULL,
    job_id     TEXT   NOT NULL,
    created_at BIGINT NOT NULL,
    closed     INT    NOT NULL
);
CREATE INDEX idx_upload_session_node ON upload_session (cluster_id, host_id, created_at);

-- SSH host keys as they were seen first.
CREATE TABLE host_key (
    host TEXT NOT NULL,
    port INT  NOT NULL,
    key  TEXT NOT NULL,
    PRIMARY KEY (host, port)
);

-- The ring of each cluster as it was seen last.
CREATE TABLE cluster_node (
    cluster_id TEXT NOT NULL,
    address    TEXT NOT NULL,
    host_id    TEXT NOT NULL,
    datacenter TEXT NOT NULL,
    rack       TEXT NOT NULL,
    PRIMARY KEY (cluster_id, address)
);
CREATE INDEX idx_cluster_node_host ON cluster_node (host_id);
