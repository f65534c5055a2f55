-- Prints one version's catalogue of parameters, one a line; NN.json in this folder is its output on
-- a fresh server of that major version:
--   initdb -D d && postgres --single -D d postgres  (or psql -XAt -f catalogue.sql)
-- pg_settings is asked rather than `postgres --describe-config`, which knows neither units nor the
-- values of enumerations and leaves out what does not stand in the sample file.
select '{' || chr(10) || string_agg(to_json(name) || ': ' || json_strip_nulls(json_build_object(
         'context', context, 'type', vartype, 'unit', unit, 'min', min_val, 'max', max_val,
         'values', enumvals)), ',' || chr(10) order by name collate "C") || chr(10) || '}'
  from pg_settings where name !~ '[.]';
