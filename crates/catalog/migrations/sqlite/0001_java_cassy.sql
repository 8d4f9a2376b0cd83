-- The tables of Java Cassy, as its own tools create and read them.
-- The server creates and migrates its database by itself; this file is for those who are used to
--   sqlite3 cassy.db < scripts/db.schema
-- All times are Unix milliseconds. Lists in cluster_info are separated by commas.
-- status: 0 unknown, 1 initialized, 2 started, 3 completed, 4 failed.

-- One row per node and backup. backup_type: 1 cluster, 2 node, 3 increment of a node.
CREATE TABLE IF NOT EXISTS backup_history (
    cluster_id   VARCHAR(255) NOT NULL,
    target_ip    VARCHAR(255) NOT NULL,
    snapshot_id  VARCHAR(255) NOT NULL,
    created_at   BIGINT       NOT NULL,
    updated_at   BIGINT,
    backup_type  TINYINT      NOT NULL,
    status       TINYINT      NOT NULL,
    PRIMARY KEY (cluster_id, target_ip, snapshot_id, created_at)
);
CREATE INDEX IF NOT EXISTS idx_snapshot_created_backup ON backup_history (snapshot_id, created_at);

-- One row per node and restore. restore_type: 1 cluster, 2 node.
CREATE TABLE IF NOT EXISTS restore_history (
    cluster_id   VARCHAR(255) NOT NULL,
    target_ip    VARCHAR(255) NOT NULL,
    snapshot_id  VARCHAR(255) NOT NULL,
    created_at   BIGINT       NOT NULL,
    updated_at   BIGINT,
    restore_type TINYINT      NOT NULL,
    status       TINYINT      NOT NULL,
    PRIMARY KEY (cluster_id, target_ip, snapshot_id, created_at)
);
CREATE INDEX IF NOT EXISTS idx_snapshot_created_restore ON restore_history (snapshot_id, created_at);

-- The registered clusters.
CREATE TABLE IF NOT EXISTS cluster_info (
    cluster_id   VARCHAR(255) NOT NULL PRIMARY KEY,
    cluster_name TEXT         NOT NULL,
    target_ips   TEXT         NOT NULL,
    keyspaces    TEXT         NOT NULL,
    data_dir     TEXT         NOT NULL,
    created_at   BIGINT       NOT NULL,
    updated_at   BIGINT
);
