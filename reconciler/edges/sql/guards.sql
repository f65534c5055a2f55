-- The triggers of standing guards: table, name, type, arguments, and whether nobody tampered with it.
SELECT json_build_array(
         n.nspname || '.' || c.relname, t.tgname, t.tgtype::int, encode(t.tgargs, 'hex'),
         t.tgqual IS NOT NULL AND t.tgattr::text = '' AND NOT EXISTS (
           SELECT FROM pg_trigger x
            WHERE x.tgname = t.tgname AND x.tgenabled NOT IN ('O', 'A')
              AND (x.tgrelid = t.tgrelid
                   OR x.tgrelid IN (SELECT relid FROM pg_partition_tree(t.tgrelid))))) AS row
  FROM pg_trigger t
  JOIN pg_class c ON c.oid = t.tgrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE t.tgparentid = 0 AND t.tgname ~ '^~shardwright_guard_[iud]$'
   AND t.tgfoid = 'shardwright.reject()'::regprocedure
 ORDER BY n.nspname, c.relname, t.tgname
