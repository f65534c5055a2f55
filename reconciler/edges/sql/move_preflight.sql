-- Everything about one side that may be in the way of a move.
WITH wanted AS (
  SELECT w.name, w.key, c.oid, c.relpersistence, c.relreplident, c.relkind,
         c.relhassubclass, a.attnum, a.attgenerated
    FROM unnest(%(names)s::text[], %(keys)s::text[]) AS w(name, key)
    JOIN pg_namespace n ON n.nspname = split_part(w.name, '.', 1)
    JOIN pg_class c ON c.relnamespace = n.oid AND n.nspname || '.' || c.relname = w.name
    LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = w.key AND NOT a.attisdropped
), heaps AS (
  SELECT oid FROM wanted
  UNION SELECT t.relid FROM wanted w, pg_partition_tree(w.oid) t WHERE t.isleaf
)
SELECT json_build_object(
  'version', current_setting('server_version_num')::int,
  'encoding', current_setting('server_encoding'),
  'wal_level', current_setting('wal_level'),
  'slots_free', current_setting('max_replication_slots')::int
                - (SELECT count(*) FROM pg_replication_slots),
  'senders_free', current_setting('max_wal_senders')::int
                  - (SELECT count(*) FROM pg_stat_replication),
  'workers_free', current_setting('max_logical_replication_workers')::int
                  - (SELECT count(*) FROM pg_stat_subscription WHERE pid IS NOT NULL),
  'retry_ms', (SELECT setting::int FROM pg_settings WHERE name = 'wal_retrieve_retry_interval'),
  'keep_mb', (SELECT setting::bigint FROM pg_settings WHERE name = 'max_slot_wal_keep_size'),
  'bytes', (SELECT coalesce(sum(pg_table_size(oid)), 0)::bigint FROM heaps),
  'all_bytes', (SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint FROM heaps),
  'large_objects', (SELECT count(*) FROM (SELECT FROM pg_largeobject_metadata LIMIT 1) AS x),
  'prepared', (SELECT json_agg(gid ORDER BY gid) FROM pg_prepared_xacts),
  'long', (SELECT json_agg(format('%%s of %%s, for %%s s', pid, usename,
                                  extract(epoch FROM clock_timestamp() - xact_start)::int))
             FROM pg_stat_activity
            WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()
              AND xact_start < clock_timestamp() - make_interval(secs => %(long_s)s)),
  'no_reference', (SELECT json_agg(f.name) FROM unnest(%(reference)s::text[]) f(name)
                    WHERE to_regclass(f.name) IS NULL),
  'installed', to_regclass('shardwright.moved') IS NOT NULL,
  'tables', (SELECT json_agg(json_build_object(
      'name', w.name, 'key', w.key, 'there', w.attnum IS NOT NULL,
      'unlogged', w.relpersistence <> 'p', 'identity', w.relreplident,
      'generated', coalesce(w.attgenerated, '') <> '',
      'parent', w.relkind = 'r' AND w.relhassubclass,
      'foreign_parts', (SELECT json_agg(t.relid::regclass::text ORDER BY t.relid)
                          FROM pg_partition_tree(w.oid) t JOIN pg_class p ON p.oid = t.relid
                         WHERE p.relkind = 'f'),
      'primary', EXISTS (SELECT FROM pg_index i WHERE i.indrelid = w.oid AND i.indisprimary),
      -- resharding.md, 1.2: without the key in it, UPDATE and DELETE of the application fail.
      'identified', w.relreplident = 'f' OR EXISTS (
          SELECT FROM pg_index i
           WHERE i.indrelid = w.oid AND w.attnum = ANY (i.indkey)
             AND CASE w.relreplident WHEN 'i' THEN i.indisreplident
                                     WHEN 'd' THEN i.indisprimary ELSE false END),
      'foreign', (SELECT json_agg(format('%%s to %%s', k.conname, k.confrelid::regclass)
                                  ORDER BY k.conname)
                    FROM pg_constraint k
                    LEFT JOIN wanted o ON o.oid = k.confrelid
                   WHERE k.conrelid = w.oid AND k.contype = 'f' AND k.conparentid = 0
                     AND NOT EXISTS (SELECT FROM unnest(%(reference)s::text[]) f(name)
                                      WHERE k.confrelid = to_regclass(f.name))
                     AND (o.oid IS NULL OR NOT EXISTS (
                           SELECT FROM unnest(k.conkey, k.confkey) c(mine, theirs)
                            WHERE c.mine = w.attnum AND c.theirs = o.attnum))),
      'referred', (SELECT json_agg(format('%%s of %%s', k.conname, k.conrelid::regclass)
                                   ORDER BY k.conname)
                     FROM pg_constraint k
                    WHERE k.confrelid = w.oid AND k.contype = 'f' AND k.conparentid = 0
                      AND k.conrelid NOT IN (SELECT oid FROM wanted))) ORDER BY w.name)
    FROM wanted w))
