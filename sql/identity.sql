-- Who answers, and who this server is.

REVOKE ALL ON FUNCTION citus_fence.coordinator_number() FROM PUBLIC;
COMMENT ON FUNCTION citus_fence.coordinator_number() IS
'what a coordinator that cannot dial its own address asks its workers: the number that the server has drawn at its start which this node''s pg_dist_node calls the coordinator (its setting citus_fence.server_number); null where that cannot be told; not for users; errors: 08001, class 28 where it cannot be reached';
