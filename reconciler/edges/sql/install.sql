-- Shardwright's own schema on every shard. Run by the superuser in one transaction, with
-- search_path = pg_catalog; every statement may run again and again.
--
-- SQLSTATEs of ours: PS001 a row of another shard, PS002 a fenced-off applier,
-- PS003 the schema belongs to somebody else, PS004 a schema file that nobody announced,
-- PS005 a guard that changed meanwhile, PS006 a statement that a move cannot carry.

DO $do$
BEGIN
  IF EXISTS (SELECT FROM pg_namespace n JOIN pg_roles r ON r.oid = n.nspowner
             WHERE n.nspname = 'shardwright' AND NOT r.rolsuper) THEN
    RAISE EXCEPTION USING ERRCODE = 'PS003',
      MESSAGE = 'schema shardwright exists and is not owned by a superuser';
  END IF;
END $do$;

CREATE SCHEMA IF NOT EXISTS shardwright;
REVOKE ALL ON SCHEMA shardwright FROM PUBLIC;

CREATE TABLE IF NOT EXISTS shardwright.meta (
  one                 boolean PRIMARY KEY DEFAULT true CHECK (one),
  installed_version   integer NOT NULL,
  password_generation integer NOT NULL DEFAULT 0
);

CREATE TABLE IF NOT EXISTS shardwright.managed_role (
  name text PRIMARY KEY,
  kind text NOT NULL CHECK (kind IN ('owner', 'app'))
);

-- A file that runs without a transaction stays 'running' when its applier dies.
CREATE TABLE IF NOT EXISTS shardwright.schema_history (
  ordinal    bigserial,
  name       text PRIMARY KEY,
  sha256     text NOT NULL,
  state      text NOT NULL CHECK (state IN ('running', 'done')),
  applied_at timestamptz,
  took_ms    bigint
);

CREATE TABLE IF NOT EXISTS shardwright.fencing (
  one   boolean PRIMARY KEY DEFAULT true CHECK (one),
  token bigint NOT NULL
);
INSERT INTO shardwright.fencing (token) VALUES (0) ON CONFLICT DO NOTHING;

-- The row lock lasts until the caller's transaction ends: two appliers take turns. To raise the
-- token the table's lock comes first, while there is no transaction id yet: whoever makes a slot
-- holds that table (hold_fence) and waits for every transaction id.
CREATE OR REPLACE FUNCTION shardwright.check_fence(presented bigint) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $f$
DECLARE
  stored bigint;
BEGIN
  SELECT f.token INTO STRICT stored FROM shardwright.fencing f;
  IF stored < presented THEN
    LOCK TABLE shardwright.fencing IN ROW EXCLUSIVE MODE;
  END IF;
  SELECT f.token INTO STRICT stored FROM shardwright.fencing f FOR UPDATE;
  IF stored > presented THEN
    RAISE EXCEPTION USING ERRCODE = 'PS002',
      MESSAGE = format('fencing token %s is older than %s: another applier took over',
                       presented, stored);
  ELSIF stored < presented THEN
    UPDATE shardwright.fencing SET token = presented;
  END IF;
END $f$;

-- What the owner may call. It can neither raise the token nor note a file that no applier announced.
CREATE OR REPLACE FUNCTION shardwright.begin_schema(presented bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $f$
BEGIN
  PERFORM FROM shardwright.fencing f WHERE f.token = presented FOR UPDATE;
  IF NOT FOUND THEN
    RAISE EXCEPTION USING ERRCODE = 'PS002',
      MESSAGE = format('fencing token %s is not the present one: another applier took over',
                       presented);
  END IF;
END $f$;

CREATE OR REPLACE FUNCTION shardwright.note_schema(file text, digest text, presented bigint)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $f$
BEGIN
  PERFORM shardwright.begin_schema(presented);
  UPDATE shardwright.schema_history h
     SET state = 'done', applied_at = clock_timestamp(),
         took_ms = extract(epoch FROM clock_timestamp() - transaction_timestamp()) * 1000
   WHERE h.name = file AND h.sha256 = digest AND h.state = 'running';
  IF NOT FOUND THEN
    RAISE EXCEPTION USING ERRCODE = 'PS004',
      MESSAGE = format('schema file %s was not announced by an applier', file);
  END IF;
END $f$;

-- Arguments: epoch, the keys that the shard has, the key column.
CREATE OR REPLACE FUNCTION shardwright.reject() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $f$
BEGIN
  RAISE EXCEPTION USING ERRCODE = 'PS001',
    MESSAGE = format('shardwright: this shard does not own that key of %I.%I (epoch %s)',
                     TG_TABLE_SCHEMA, TG_TABLE_NAME, TG_ARGV[0]),
    DETAIL = format('It owns %s of %I.', TG_ARGV[1], TG_ARGV[2]),
    HINT = 'reload routes';
END $f$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA shardwright FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA shardwright FROM PUBLIC;
