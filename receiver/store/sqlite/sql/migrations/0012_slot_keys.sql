-- Kling counts parallel tasks per pack and model, so a task names both: 'video/kling-v2-1'. Older tasks name the pack.
ALTER TABLE tasks RENAME COLUMN pack TO slot_key;
