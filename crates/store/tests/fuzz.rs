//! The URI of a store, as it comes from a configuration file or a frame.

use std::path::{Component, Path};

use cassy_fuzz::Fuzz;
use cassy_store::StoreLocation;

#[test]
fn a_location_that_is_accepted_round_trips_and_is_a_directory_of_its_own() {
    let seeds = [
        "file:///backups/cassy",
        "FILE:/backups/",
        "file://localhost/a%20b/%C3%A4",
        "file:////backups//a/./b",
        "s3://bucket/path",
        "sftp://user@host/path",
    ];
    let words = [
        "file:",
        "//",
        "///",
        "localhost",
        "%2e",
        "%2E%2e",
        "%2F",
        "%00",
        "%",
        "..",
        "/../",
        "?",
        "#",
        "\u{202e}",
    ];
    Fuzz::new("location of a store").seeds(seeds).words(words).run(|bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return false };
        let location: StoreLocation = match text.parse() {
            Ok(location) => location,
            Err(error) => {
                assert!(!error.to_string().contains(char::is_control), "{error}");
                return false;
            }
        };
        assert_eq!(location.to_string().parse(), Ok(location.clone()));
        if let StoreLocation::File(path) = &location {
            assert!(path.is_absolute() && path != Path::new("/"));
            assert!(path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_))));
        }
        true
    });
}
