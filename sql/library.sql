-- What follows is made for a library of 0.2.0 or later.  A server keeps the library that it has loaded until it
-- is restarted, whatever is installed meanwhile: functions of an older one would be missing or, worse, answer
-- in another shape.  LOAD is for where it is not preloaded: it does nothing where it is.
DO $check$
DECLARE
    needed constant text := '0.2.0';
    loaded text;
BEGIN
    -- Since 18 functions find their library where extension_control_path has the extension, without this prefix;
    -- LOAD does not leave it out by itself.
    EXECUTE pg_catalog.format('LOAD %L', CASE
        WHEN pg_catalog.current_setting('server_version_num')::int OPERATOR(pg_catalog.>=) 180000
        THEN pg_catalog.replace('MODULE_PATHNAME', '$libdir/', '') ELSE 'MODULE_PATHNAME' END);
    -- The library of 0.1.0 did not say what it is.
    loaded := coalesce(pg_catalog.current_setting('citus_fence.library_version', true), '0.1.0');
    IF pg_catalog.string_to_array(loaded, '.')::int[] OPERATOR(pg_catalog.<) pg_catalog.string_to_array(needed, '.')::int[] THEN
        RAISE EXCEPTION 'this server runs the library of citus_fence %, and its SQL is of %', loaded, needed
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'Restart the server, so that it loads the library that is installed, and repeat the command.';
    END IF;
END
$check$;
