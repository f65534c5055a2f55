-- Everything that a plan looks at, in one statement; the parts of our own schema are put in below.
WITH relation AS (
  -- Before the first ANALYZE the planner knows no rows, but the statistics count them.
  SELECT c.oid, c.relkind, coalesce(pg_partition_root(c.oid), c.oid) AS root,
         CASE WHEN c.reltuples >= 0 THEN c.reltuples
              ELSE coalesce(nullif(pg_stat_get_live_tuples(c.oid), 0), -1) END AS reltuples
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
   WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
     AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'shardwright')
     AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass
                        AND d.objid = c.oid AND d.deptype = 'e')
), folded AS (
  SELECT root,
         sum(coalesce(pg_total_relation_size(oid), 0))::bigint AS bytes,
         CASE WHEN bool_or(reltuples >= 0) FILTER (WHERE relkind = 'r')
              THEN sum(greatest(reltuples, 0)) FILTER (WHERE relkind = 'r')
              WHEN bool_or(relkind = 'r') THEN -1 ELSE 0 END::bigint AS row_estimate
    FROM relation GROUP BY root
)
SELECT json_build_object(
  'version', current_setting('server_version_num')::int,
  'system', (SELECT system_identifier::text FROM pg_control_system()),
  'bytes', pg_database_size(current_database()),
  'standbys', (SELECT json_agg(json_build_array(application_name,
                               pg_wal_lsn_diff(flush_lsn, '0/0')::bigint) ORDER BY application_name)
                 FROM pg_stat_replication
                WHERE application_name = ANY(%(members)s) AND flush_lsn IS NOT NULL),
  'tables', (SELECT json_agg(json_build_array(n.nspname || '.' || c.relname, f.bytes, f.row_estimate,
                      (SELECT json_agg(json_build_array(a.attname,
                                       format_type(a.atttypid, a.atttypmod)) ORDER BY a.attnum)
                         FROM pg_attribute a
                        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped))
                      ORDER BY n.nspname, c.relname)
               FROM folded f JOIN pg_class c ON c.oid = f.root
               JOIN pg_namespace n ON n.oid = c.relnamespace),
  -- Read last of all files: what ALTER SYSTEM wrote wins over Patroni's configuration.
  'overrides', (SELECT json_agg(json_build_array(s.name, s.setting) ORDER BY s.name)
                  FROM (SELECT DISTINCT ON (lower(name)) lower(name) AS name, setting
                          FROM pg_file_settings
                         WHERE right(sourcefile, 20) = 'postgresql.auto.conf'
                         ORDER BY lower(name), seqno DESC) s),
  'roles', (SELECT json_agg(rolname ORDER BY rolname) FROM pg_roles
             WHERE rolcanlogin AND rolname = ANY(%(roles)s))
  {ours}
)::text
