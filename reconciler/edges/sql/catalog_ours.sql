  , 'managed', (SELECT json_agg(r.rolname ORDER BY r.rolname)
                  FROM shardwright.managed_role m JOIN pg_roles r ON r.rolname = m.name
                 WHERE r.rolcanlogin),
  'meta', (SELECT json_build_array(installed_version, password_generation) FROM shardwright.meta),
  'history', (SELECT json_agg(json_build_array(name, sha256) ORDER BY ordinal)
                FROM shardwright.schema_history WHERE state = 'done'),
  'triggers', (SELECT json_agg(g.row) FROM ({guards}) AS g)
