-- The tables of a move as one side has them, in the order asked for: columns and heaps.
SELECT json_build_object(
         'name', w.name, 'identity', c.relreplident, 'kind', c.relkind,
         'columns', (
           SELECT json_agg(json_build_array(
                    a.attname, format_type(a.atttypid, a.atttypmod), t.typname, a.attgenerated,
                    -- A type of the user's own has another OID at the other side.
                    t.oid < 16384 AND t.typelem < 16384) ORDER BY a.attnum)
             FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
            WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
         -- All that a row meets besides its columns' types; ours, and PostgreSQL 18's, left out.
         'shape', (
           SELECT json_agg(line ORDER BY line) FROM (
             SELECT 'column ' || a.attname || coalesce(' ' || pg_get_expr(d.adbin, d.adrelid), '')
                    || CASE WHEN a.attnotnull THEN ' not null' ELSE '' END || a.attidentity::text AS line
               FROM pg_attribute a
               LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
              WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
             UNION ALL
             SELECT 'constraint ' || k.conname || ' ' || pg_get_constraintdef(k.oid)
               FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype NOT IN ('n', 't')
             UNION ALL
             SELECT pg_get_indexdef(i.indexrelid) || CASE WHEN i.indisvalid THEN '' ELSE ' invalid' END
               FROM pg_index i WHERE i.indrelid = c.oid
             UNION ALL
             SELECT pg_get_triggerdef(t.oid) FROM pg_trigger t
              WHERE t.tgrelid = c.oid AND NOT t.tgisinternal AND t.tgname !~ '^~shardwright_'
             UNION ALL
             SELECT 'partition ' || p.oid::regclass || ' ' || pg_get_expr(p.relpartbound, p.oid)
               FROM pg_partition_tree(c.oid) t JOIN pg_class p ON p.oid = t.relid
              WHERE t.level > 0) AS lines),
         'heaps', (
           SELECT json_agg(json_build_array(hn.nspname, h.relname, pg_relation_size(h.oid),
                                            pg_table_size(h.oid)) ORDER BY h.oid)
             FROM pg_class h JOIN pg_namespace hn ON hn.oid = h.relnamespace
            WHERE h.relkind = 'r'
              AND (h.oid = c.oid
                   OR h.oid IN (SELECT relid FROM pg_partition_tree(c.oid) WHERE isleaf)))) AS row
  FROM unnest(%(names)s::text[]) WITH ORDINALITY AS w(name, o)
  JOIN pg_namespace n ON n.nspname = split_part(w.name, '.', 1)
  JOIN pg_class c ON c.relnamespace = n.oid AND n.nspname || '.' || c.relname = w.name
 WHERE c.relkind IN ('r', 'p')
 ORDER BY w.o
