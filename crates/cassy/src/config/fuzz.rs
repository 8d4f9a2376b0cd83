//! Damaged configuration files: every problem is said on lines that a terminal can show, none is a panic.

use super::properties::parse;
use super::settings::Settings;
use super::{MetadataUrl, Path, server_config};
use cassy_fuzz::Fuzz;

fn seeds() -> [String; 3] {
    let prefix = "scalar.cassy.server.";
    [
        format!(
            "# comment\n{prefix}ssh_user=foo\n{prefix}ssh_private_key_path = /nonexistent/key\n{prefix}storage_base_uri: \
             file:///mnt/backups\n{prefix}metadata_db_url=jdbc:sqlite:cassy.db\n{prefix}port=1\n"
        ),
        "a=\\t\\n\\r\\f\\\\\\q\\u00e4\\uD83D\\uDE00\nb=x\\\n  y\\\r\n# z\n!c\n=p\nj\\ k\\=l\\:m=n=o\r"
            .to_owned(),
        format!(
            "{prefix}listen_address=::1\n{prefix}jmx_port=7199\n{prefix}storage_type=file\n{prefix}srv_service_url=\
             _cassy._tcp.example.com\n{prefix}cassandra_yaml=/etc/cassandra/cassandra.yaml\n"
        ),
    ]
}

#[test]
fn a_damaged_file_is_read_or_refused_in_visible_words() {
    let words = [
        "\\u",
        "\\uD83D",
        "\\",
        "\\\n",
        "\r",
        "\u{feff}",
        "=",
        ":",
        "~/",
        "..",
        "scalar.cassy.server.",
        "\u{1b}",
    ];
    let fuzz = Fuzz::new("properties file").seeds(seeds()).words(words).cost(2);
    // Other tests of this program run at the same time, and their memory counts.
    fuzz.memory_bytes(512 << 20).run(|bytes| {
        let entries = match parse(bytes) {
            Ok(entries) => entries,
            Err(error) => {
                assert!(!error.to_string().contains(char::is_control), "{error}");
                return false;
            }
        };
        assert!(entries.windows(2).all(|pair| matches!(pair, [one, next] if one.line < next.line)));
        let mut settings = Settings::new("cassy.properties".to_owned(), &entries);
        let config = server_config(&mut settings, Some(Path::new("/nonexistent")));
        let lines: Vec<String> = match settings.finish(config) {
            Ok(loaded) => loaded.warnings.iter().map(ToString::to_string).collect(),
            Err(error) => error.lines(),
        };
        assert!(lines.iter().all(|line| !line.contains(char::is_control)), "{lines:?}");
        true
    });
}

#[test]
fn a_metadata_url_that_is_accepted_round_trips_and_a_refused_one_is_not_repeated() {
    let seeds = [
        "jdbc:sqlite:cassy.db",
        "JDBC:SQLite:/var/lib/cassy/ü.db",
        "jdbc:sqlite::memory:",
        "jdbc:postgresql://db/x",
    ];
    let words = ["jdbc:", "sqlite:", ":memory:", "file:", "?", "é", "/", "\0"];
    let fuzz = Fuzz::new("metadata URL").seeds(seeds).words(words).memory_bytes(512 << 20);
    fuzz.run(|bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return false };
        match text.parse::<MetadataUrl>() {
            Ok(url) => {
                assert_eq!(url.to_string().parse(), Ok(url.clone()));
                true
            }
            Err(error) => {
                assert!(error.to_string().len() < 200);
                false
            }
        }
    });
}
