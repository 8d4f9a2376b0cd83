-- A client's name for its request: asked for again by the same key, the same job answers. request is JSON and belongs
-- to the caller's own code. Most jobs have no key; NULLs do not clash. A refused job gives its key back.
ALTER TABLE job ADD COLUMN idempotency_key TEXT;
ALTER TABLE job ADD COLUMN request TEXT;
CREATE UNIQUE INDEX idx_job_idempotency_key ON job (idempotency_key);
