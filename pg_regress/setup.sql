-- Helpers of the tests, on every node.  Run before either suite.

-- Looks again and again until the condition is true, and fails if that takes too long.
CREATE FUNCTION wait_for(condition text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    patience constant timestamptz := clock_timestamp() + interval '60 s';
    found boolean;
BEGIN
    LOOP
        EXECUTE 'SELECT ' || condition INTO found;
        EXIT WHEN found;
        IF clock_timestamp() > patience THEN
            RAISE EXCEPTION 'waited in vain for: %', condition
                USING DETAIL = (SELECT to_jsonb(s) FROM citus_backup_block_status() s);
        END IF;
        PERFORM pg_sleep(0.005);  -- // wait: between two looks
        -- A transaction sees the same statistics all the time unless it lets go of them.
        PERFORM pg_stat_clear_snapshot();
    END LOOP;
END
$$;

-- Runs a command that is to fail, and gives everything that its error says.
CREATE FUNCTION error_of(command text,
    OUT code text, OUT message text, OUT detail text, OUT hint text) LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE command;
    message := 'no error';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT,
        detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
END
$$;

-- What became of commands whose order is left to chance: a row each, to be counted afterwards.
CREATE TABLE outcome (command text, result text);

-- Runs a command that gives one value, or fails, and notes which.
CREATE FUNCTION note(command text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    result text;
BEGIN
    BEGIN
        EXECUTE command INTO result;
    EXCEPTION WHEN OTHERS THEN
        result := SQLSTATE;
    END;
    INSERT INTO outcome VALUES (command, result);
END
$$;
