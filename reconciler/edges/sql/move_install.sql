-- What moves of keys keep at both shards; run by the superuser, every statement may run again.

-- A beat tells by its arrival that all that was committed before it has arrived as well. Rows are
-- only ever inserted, with a number never used before: an update of a row that the other side
-- lacks would be skipped there in silence.
CREATE TABLE IF NOT EXISTS shardwright.beat (
  lane text   NOT NULL,
  v    bigint NOT NULL,
  PRIMARY KEY (lane, v)
);

-- One row a move at its target. slot: the copy under its snapshot is whole, as of lsn; empty when
-- it is not. timeline: the target's at the copy. cut_timeline: the source's at the cut. verified,
-- verified_back: what both servers were when all rows were equal, last at verified_at.
CREATE TABLE IF NOT EXISTS shardwright.moved (
  move_id      text PRIMARY KEY,
  begun        boolean NOT NULL DEFAULT false,
  slot         text    NOT NULL DEFAULT '',
  lsn          pg_lsn,
  timeline     text    NOT NULL DEFAULT '',
  indexed      boolean NOT NULL DEFAULT false,
  verified     text    NOT NULL DEFAULT '',
  cut_timeline text    NOT NULL DEFAULT ''
);
-- One at its source as well while tablesync copies. syncs: a pattern of the slots that it makes.
ALTER TABLE shardwright.moved ADD COLUMN IF NOT EXISTS syncs text NOT NULL DEFAULT '';
-- The source's timeline when the copy began.
ALTER TABLE shardwright.moved ADD COLUMN IF NOT EXISTS source_timeline text NOT NULL DEFAULT '';
ALTER TABLE shardwright.moved
  ADD COLUMN IF NOT EXISTS verified_back text NOT NULL DEFAULT '',
  ADD COLUMN IF NOT EXISTS verified_at timestamptz;
-- The copy's slot once the materialized views show its rows.
ALTER TABLE shardwright.moved ADD COLUMN IF NOT EXISTS refreshed text NOT NULL DEFAULT '';
-- The slot as of whose position lsn the whole target is a physical copy of the source.
ALTER TABLE shardwright.moved ADD COLUMN IF NOT EXISTS seeded text NOT NULL DEFAULT '';

-- What a copy took away to be fast, in the order in which it is built again; kind refresh: a
-- materialized view that does not show the rows as they are.
CREATE TABLE IF NOT EXISTS shardwright.move_ddl (
  move_id    text    NOT NULL,
  ordinal    bigserial,
  kind       text    NOT NULL,
  definition text    NOT NULL,
  PRIMARY KEY (move_id, ordinal)
);

-- Fails when the guard of a table is not the one that its successor was derived from.
CREATE OR REPLACE FUNCTION shardwright.expect_guard(tbl regclass, expected bytea) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $f$
BEGIN
  IF EXISTS (SELECT FROM pg_trigger t
              WHERE t.tgrelid = tbl AND t.tgparentid = 0
                AND t.tgname ~ '^~shardwright_guard_[iud]$' AND t.tgargs <> expected) THEN
    RAISE EXCEPTION USING ERRCODE = 'PS005',
      MESSAGE = format('the guard of %s was changed meanwhile', tbl);
  END IF;
END $f$;

-- As check_fence, for what must not have a transaction id: making a slot waits for each of them.
-- The token is held where it is, so the caller has to have raised it before.
CREATE OR REPLACE FUNCTION shardwright.hold_fence(presented bigint) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $f$
BEGIN
  LOCK TABLE shardwright.fencing IN SHARE MODE;
  PERFORM FROM shardwright.fencing f WHERE f.token = presented;
  IF NOT FOUND THEN
    RAISE EXCEPTION USING ERRCODE = 'PS002',
      MESSAGE = format('fencing token %s is not the present one: another applier took over',
                       presented);
  END IF;
END $f$;

-- The epoch that UPDATEs and DELETEs have to know here (resharding.md, 3.3b). A sequence: no snapshot
-- hides what it says. Its first value stands for nobody is refused.
CREATE SEQUENCE IF NOT EXISTS shardwright.epoch;

CREATE OR REPLACE FUNCTION shardwright.reject_stale() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $f$
BEGIN
  RAISE EXCEPTION USING ERRCODE = 'PS001',
    MESSAGE = format('shardwright: keys of %I.%I moved to another shard at epoch %s',
                     TG_TABLE_SCHEMA, TG_TABLE_NAME,
                     pg_sequence_last_value('shardwright.epoch'::regclass)),
    DETAIL = format('This session knows epoch %s.',
                    coalesce(nullif(current_setting('shardwright.epoch', true), ''), 'none')),
    HINT = 'reload routes, then SET shardwright.epoch to the routing map''s epoch';
END $f$;

-- What the streams of a move cannot carry. Argument: the move.
CREATE OR REPLACE FUNCTION shardwright.reject_held() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $f$
BEGIN
  IF TG_OP = 'TRUNCATE' THEN
    RAISE EXCEPTION USING ERRCODE = 'PS006',
      MESSAGE = format('shardwright: %I.%I cannot be truncated while keys move (%s)',
                       TG_TABLE_SCHEMA, TG_TABLE_NAME, TG_ARGV[0]),
      HINT = 'DELETE the rows, or wait until the move has ended: shardwright get operations';
  END IF;
  RAISE EXCEPTION USING ERRCODE = 'PS006',
    MESSAGE = format('shardwright: a shard key of %I.%I cannot change over the border of a move (%s)',
                     TG_TABLE_SCHEMA, TG_TABLE_NAME, TG_ARGV[0]),
    HINT = 'DELETE the row and INSERT it under its other key, or wait until the move has ended: '
           'shardwright get operations';
END $f$;

REVOKE ALL ON shardwright.beat, shardwright.moved, shardwright.move_ddl FROM PUBLIC;
REVOKE ALL ON FUNCTION shardwright.expect_guard(regclass, bytea), shardwright.reject_stale(),
  shardwright.hold_fence(bigint), shardwright.reject_held() FROM PUBLIC;
GRANT SELECT ON SEQUENCE shardwright.epoch TO PUBLIC;
