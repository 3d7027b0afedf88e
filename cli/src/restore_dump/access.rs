//! Whose the database is, and who may do what with it, where `--create` has made it: as `pg_restore --create` has it. What a
//! database of production does not let everybody do, its copy does not either.

use remote::RemoteError;
use tracing::debug;

use super::settings::group_like;
use super::target::Target;
use crate::dump::{Access, Dump, NodeSession, Privilege, literal, quote};
use crate::failure::Failure;

/// Makes it so on every node; what a server did not take is a finding.
pub fn make(
    dump: &Dump,
    target: &Target,
    sessions: &mut [NodeSession],
) -> Result<Vec<String>, Failure> {
    let mut findings = Vec::new();
    for (node, session) in target.nodes.iter().zip(sessions) {
        let group = group_like(dump, node);
        let Some(access) = dump.access.iter().find(|access| access.groupid == group) else {
            continue;
        };
        for (what, sql) in statements(access, &target.database) {
            debug!("{}: {sql}", node.called());
            match session.ask("say who may use the database", &sql) {
                Ok(_) => {}
                Err(error @ RemoteError::Query { .. }) => {
                    findings.push(format!("the database has not {what}: {error}"));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(findings)
}

/// What each statement gives the database, and the statement.
fn statements(access: &Access, database: &str) -> Vec<(String, String)> {
    let database = quote(database);
    let mut all = vec![(
        format!("its owner {}", access.owner),
        format!("ALTER DATABASE {database} OWNER TO {}", quote(&access.owner)),
    )];
    if let Some(privileges) = &access.privileges {
        // The owner's are among them, as far as he has any.
        let revoke = format!(
            "REVOKE ALL ON DATABASE {database} FROM PUBLIC; \
             DO $$BEGIN EXECUTE (SELECT format('REVOKE ALL ON DATABASE %I FROM %I', datname, pg_get_userbyid(datdba)) \
                                   FROM pg_database WHERE datname = current_database()); END$$"
        );
        all.push(("the privileges of its own alone".to_owned(), revoke));
        all.extend(privileges.iter().map(|privilege| grant(privilege, &database)));
    }
    if let Some(comment) = &access.comment {
        let sql = format!("COMMENT ON DATABASE {database} IS {}", literal(comment));
        all.push(("its comment".to_owned(), sql));
    }
    if access.connection_limit >= 0 {
        let limit = access.connection_limit;
        let sql = format!("ALTER DATABASE {database} CONNECTION LIMIT {limit}");
        all.push(("its connection limit".to_owned(), sql));
    }
    all
}

fn grant(Privilege { role, privilege, grantable }: &Privilege, database: &str) -> (String, String) {
    let (to, called) = match role {
        Some(role) => (quote(role), role.as_str()),
        None => ("PUBLIC".to_owned(), "PUBLIC"),
    };
    let option = if *grantable { " WITH GRANT OPTION" } else { "" };
    // A word of the manifest's stays a word.
    let privilege: String = privilege.chars().filter(char::is_ascii_alphabetic).collect();
    let sql = format!("GRANT {privilege} ON DATABASE {database} TO {to}{option}");
    (format!("the privilege {privilege} for {called}"), sql)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_privileges_are_left_alone_and_others_take_their_place() {
        let mut access = Access {
            groupid: 0,
            owner: "o\"w".into(),
            comment: None,
            connection_limit: -1,
            privileges: None,
        };
        let sql = |access: &Access| -> Vec<String> {
            statements(access, "d").into_iter().map(|(_, sql)| sql).collect()
        };
        assert_eq!(sql(&access), ["ALTER DATABASE \"d\" OWNER TO \"o\"\"w\""]);
        let of = |role: Option<&str>, privilege: &str, grantable| Privilege {
            role: role.map(str::to_owned),
            privilege: privilege.to_owned(),
            grantable,
        };
        access.privileges = Some(vec![of(None, "CONNECT", false), of(Some("r"), "CREATE", true)]);
        (access.comment, access.connection_limit) = (Some("it's".into()), 0);
        let all = sql(&access);
        assert!(all[1].contains("REVOKE ALL ON DATABASE \"d\" FROM PUBLIC"), "{all:?}");
        assert_eq!(
            all[2..],
            [
                "GRANT CONNECT ON DATABASE \"d\" TO PUBLIC",
                "GRANT CREATE ON DATABASE \"d\" TO \"r\" WITH GRANT OPTION",
                "COMMENT ON DATABASE \"d\" IS E'it''s'",
                "ALTER DATABASE \"d\" CONNECTION LIMIT 0",
            ]
        );
    }
}
