-- What a physical copy of this shard would bring: its size, and what no key says whose it is.
WITH declared AS (
  SELECT to_regclass(name)::oid AS oid FROM unnest(%(tables)s::text[]) AS t(name)
)
SELECT json_build_object(
  'bytes', (SELECT sum(pg_database_size(oid))::bigint FROM pg_database),
  'databases', (SELECT json_agg(datname ORDER BY datname) FROM pg_database
                 WHERE NOT datistemplate AND datname NOT IN (%(database)s, 'postgres')),
  'tablespaces', (SELECT count(*) > 2 FROM pg_tablespace),
  'others', (SELECT json_agg(json_build_array(n.nspname, c.relname) ORDER BY n.nspname, c.relname)
               FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
              WHERE c.relkind = 'r' AND c.relpersistence = 'p'
                AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'shardwright')
                AND coalesce(pg_partition_root(c.oid)::oid, c.oid) NOT IN (
                      SELECT oid FROM declared WHERE oid IS NOT NULL)
                AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass
                                   AND d.objid = c.oid AND d.deptype = 'e')))
