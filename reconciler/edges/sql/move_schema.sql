-- What schema files bring beside tables, a line an object: its kind, its name, what it
-- is, and of what it is, where that may be at one side only.
WITH ours AS (
  SELECT oid, nspname, nspacl, nspowner FROM pg_namespace
   WHERE nspname !~ '^pg_' AND nspname NOT IN ('information_schema', 'shardwright')
), members AS (
  SELECT classid, objid FROM pg_depend WHERE deptype = 'e'
), tables AS (
  SELECT c.oid FROM pg_class c JOIN ours n ON n.oid = c.relnamespace
   WHERE n.nspname || '.' || c.relname = ANY(%(names)s) AND c.relkind IN ('r', 'p')
), parts AS (
  SELECT oid FROM tables UNION SELECT p.relid FROM tables t, pg_partition_tree(t.oid) p
), relations AS (
  SELECT c.oid, c.relkind, c.relacl, c.relowner, c.reloptions, c.relrowsecurity, c.relforcerowsecurity
    FROM pg_class c JOIN ours n ON n.oid = c.relnamespace
   WHERE c.oid NOT IN (SELECT objid FROM members WHERE classid = 'pg_class'::regclass)
     AND (c.relkind IN ('v', 'm') OR c.oid IN (SELECT oid FROM parts)
          -- Sequences that belong to a column, or give it its default.
          OR c.relkind = 'S' AND EXISTS (
               SELECT FROM pg_depend d LEFT JOIN pg_attrdef a ON a.oid = d.objid
                WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                      AND d.refobjid IN (SELECT oid FROM parts)
                   OR d.classid = 'pg_attrdef'::regclass AND d.refobjid = c.oid
                      AND a.adrelid IN (SELECT oid FROM parts)))
), routines AS (
  SELECT p.*, p.oid::regprocedure::text AS name FROM pg_proc p JOIN ours n ON n.oid = p.pronamespace
   WHERE p.oid NOT IN (SELECT objid FROM members WHERE classid = 'pg_proc'::regclass)
), types AS (
  SELECT t.* FROM pg_type t JOIN ours n ON n.oid = t.typnamespace
   WHERE t.typtype IN ('e', 'd')
     AND t.oid NOT IN (SELECT objid FROM members WHERE classid = 'pg_type'::regclass)
), acls AS (
  SELECT g.name, g.owner, a.*
    FROM (
      SELECT r.oid::regclass::text, r.oid::regclass::text,
             coalesce(r.relacl, acldefault(CASE r.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", r.relowner))
        FROM relations r
      UNION ALL
      SELECT r.oid::regclass || '.' || quote_ident(c.attname), r.oid::regclass::text, c.attacl
        FROM relations r JOIN pg_attribute c ON c.attrelid = r.oid
       WHERE c.attacl IS NOT NULL AND NOT c.attisdropped
      UNION ALL SELECT name, name, coalesce(proacl, acldefault('f', proowner)) FROM routines
      UNION ALL SELECT 'schema ' || quote_ident(nspname), '', coalesce(nspacl, acldefault('n', nspowner))
        FROM ours
    ) AS g(name, owner, acl), aclexplode(g.acl) a
   -- CREATE on a schema is for who applies schema files; on public it came with PostgreSQL 14.
   -- MAINTAIN is PostgreSQL 17's, which a move may come from or go to.
   WHERE a.privilege_type NOT IN ('MAINTAIN', 'CREATE')
), granted AS (
  -- Who granted does not matter.
  SELECT privilege_type || ' on ' || name || ' to '
         || CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END AS name,
         bool_or(is_grantable) AS grantable, owner
    FROM acls GROUP BY 1, 3
), owned(name, role) AS (
  SELECT oid::regclass::text, relowner FROM relations
  UNION ALL SELECT name, proowner FROM routines
  UNION ALL SELECT oid::regtype::text, typowner FROM types
), used(role) AS (
  -- Superusers need no grant, and may be called otherwise at each shard.
  SELECT r.oid FROM pg_roles r
   WHERE r.oid >= 16384 AND NOT r.rolsuper
     AND (r.oid IN (SELECT role FROM owned) OR r.oid IN (SELECT grantee FROM acls)
          OR r.oid IN (SELECT unnest(polroles) FROM pg_policy
                        WHERE polrelid IN (SELECT oid FROM relations)))
), memberships AS (
  WITH RECURSIVE reach(role) AS (
    SELECT role FROM used UNION SELECT m.member FROM reach JOIN pg_auth_members m ON m.roleid = reach.role
  )
  SELECT member::regrole || ' in ' || roleid::regrole AS name, bool_or(admin_option) AS admin
    FROM pg_auth_members
   WHERE roleid IN (SELECT role FROM reach) OR member IN (SELECT role FROM used) GROUP BY 1
), described AS MATERIALIZED (
  SELECT d.* FROM pg_description d
   WHERE d.objoid >= 16384 AND CASE d.classoid
     WHEN 'pg_class'::regclass THEN
       d.objoid IN (SELECT oid FROM relations)
       OR d.objoid IN (SELECT indexrelid FROM pg_index WHERE indrelid IN (SELECT oid FROM relations))
     WHEN 'pg_constraint'::regclass THEN
       d.objoid IN (SELECT oid FROM pg_constraint WHERE conrelid IN (SELECT oid FROM relations))
     WHEN 'pg_trigger'::regclass THEN
       d.objoid IN (SELECT oid FROM pg_trigger WHERE tgrelid IN (SELECT oid FROM relations))
     WHEN 'pg_policy'::regclass THEN
       d.objoid IN (SELECT oid FROM pg_policy WHERE polrelid IN (SELECT oid FROM relations))
     WHEN 'pg_proc'::regclass THEN d.objoid IN (SELECT oid FROM routines)
     WHEN 'pg_type'::regclass THEN d.objoid IN (SELECT oid FROM types)
     WHEN 'pg_namespace'::regclass THEN d.objoid IN (SELECT oid FROM ours)
   END
), lines(kind, name, said, owner) AS (
  SELECT CASE relkind WHEN 'v' THEN 'view' ELSE 'materialized view' END, oid::regclass::text,
         concat_ws(E'\n', pg_get_viewdef(oid), reloptions::text, (
           SELECT string_agg(pg_get_indexdef(i.indexrelid), E'\n' ORDER BY i.indexrelid::regclass::text)
             FROM pg_index i WHERE i.indrelid = r.oid)), ''
    FROM relations r WHERE relkind IN ('v', 'm')
  UNION ALL
  SELECT CASE p.prokind WHEN 'p' THEN 'procedure' WHEN 'a' THEN 'aggregate' ELSE 'function' END, p.name,
         concat_ws(E'\n', CASE WHEN p.prokind <> 'a' THEN pg_get_functiondef(p.oid) ELSE
                     (SELECT to_jsonb(a) - 'aggfnoid' || to_jsonb(p.prorettype::regtype::text)
                        FROM pg_aggregate a WHERE a.aggfnoid = p.oid)::text END), ''
    FROM routines p
  UNION ALL
  SELECT 'type', t.oid::regtype::text, concat_ws(E'\n',
         (SELECT string_agg(e.enumlabel, E'\n' ORDER BY e.enumsortorder)
            FROM pg_enum e WHERE e.enumtypid = t.oid),
         CASE WHEN t.typtype = 'd' THEN format_type(t.typbasetype, t.typtypmod)
              || CASE WHEN t.typnotnull THEN ' not null' ELSE '' END END, t.typdefault,
         (SELECT string_agg(k.conname || ' ' || pg_get_constraintdef(k.oid), E'\n' ORDER BY k.conname)
            FROM pg_constraint k WHERE k.contypid = t.oid AND k.contype = 'c')), ''
    FROM types t
  UNION ALL
  SELECT 'row security', 'of ' || oid::regclass, '', '' FROM relations WHERE relrowsecurity
  UNION ALL
  SELECT 'row security', 'of the owner of ' || oid::regclass, '', ''
    FROM relations WHERE relforcerowsecurity
  UNION ALL
  SELECT 'policy', quote_ident(p.polname) || ' on ' || r.oid::regclass,
         concat_ws(E'\n', p.polcmd::text, p.polpermissive::text,
           (SELECT string_agg(CASE o WHEN 0 THEN 'PUBLIC' ELSE o::regrole::text END, ',' ORDER BY 1)
              FROM unnest(p.polroles) o),
           'using ' || pg_get_expr(p.polqual, p.polrelid),
           'check ' || pg_get_expr(p.polwithcheck, p.polrelid)), ''
    FROM pg_policy p JOIN relations r ON r.oid = p.polrelid
  UNION ALL
  -- A table's triggers are compared with the table, but for whether they fire.
  SELECT 'trigger', quote_ident(t.tgname) || ' on ' || r.oid::regclass,
         t.tgenabled::text || CASE WHEN r.relkind = 'v' THEN pg_get_triggerdef(t.oid) ELSE '' END,
         r.oid::regclass::text
    FROM pg_trigger t JOIN relations r ON r.oid = t.tgrelid
   WHERE NOT t.tgisinternal AND t.tgname !~ '^~shardwright_' AND (r.relkind = 'v' OR t.tgenabled <> 'O')
  UNION ALL
  SELECT 'rule', quote_ident(w.rulename) || ' on ' || r.oid::regclass,
         w.ev_enabled::text || pg_get_ruledef(w.oid), r.oid::regclass::text
    FROM pg_rewrite w JOIN relations r ON r.oid = w.ev_class WHERE w.rulename <> '_RETURN'
  UNION ALL
  SELECT 'extension', quote_ident(extname), extversion, '' FROM pg_extension WHERE extname <> 'plpgsql'
  UNION ALL
  SELECT 'ownership', 'of ' || o.name, CASE WHEN r.rolsuper THEN '' ELSE r.rolname END, o.name
    FROM owned o JOIN pg_roles r ON r.oid = o.role
  UNION ALL
  SELECT 'membership', 'of ' || name, CASE WHEN admin THEN 'with admin option' ELSE '' END, ''
    FROM memberships
  UNION ALL
  SELECT 'grant', name, CASE WHEN grantable THEN 'with grant option' ELSE '' END, owner FROM granted
  UNION ALL
  SELECT 'comment', 'on ' || i.type || ' ' || i.identity, d.description, CASE d.classoid
           WHEN 'pg_class'::regclass THEN d.objoid::regclass::text
           WHEN 'pg_proc'::regclass THEN d.objoid::regprocedure::text ELSE '' END
    FROM described d, pg_identify_object(d.classoid, d.objoid, d.objsubid) i
)
SELECT kind, name, CASE said WHEN '' THEN '' ELSE md5(said) END, owner FROM lines ORDER BY kind, name
