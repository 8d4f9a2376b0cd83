//! What `/etc/hosts` says of a host (hosts(5)): it comes before every server.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use super::servers;

/// Lists of unwanted names are some megabytes long.
const FILE_LIMIT_BYTES: u64 = 16 << 20;

/// Read anew for each question, as the file changes under a running server.
#[derive(Debug, Clone)]
pub(crate) struct Hosts(pub(crate) PathBuf);

impl Hosts {
    /// Every address of the host; none when the file does not name it.
    pub(crate) async fn addresses(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        Ok(listed(&servers::read(&self.0, FILE_LIMIT_BYTES).await?, host))
    }
}

fn listed(text: &str, host: &str) -> Vec<IpAddr> {
    let host = host.trim_end_matches('.');
    let of_line = |line: &str| {
        let mut words = line.split('#').next()?.split_whitespace();
        let address = words.next()?.parse::<IpAddr>().ok()?;
        words
            .any(|name| name.trim_end_matches('.').eq_ignore_ascii_case(host))
            .then(|| address.to_canonical())
    };
    text.lines().filter_map(of_line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_a_host_counts_and_no_other() {
        let text = "127.0.0.1 localhost\n# 10.0.0.9 app1.example.com\n10.0.0.1\tapp1 App1.Example.com # app2.example.com\n\
                    ::ffff:10.0.0.2 app1.example.com.\nnonsense app1.example.com\nfe80::1%eth0 app1.example.com\n\
                    10.0.0.3 app1.example.comx app1.example.com\n10.0.0.4\n2001:db8::1   app1.example.com\r\n";
        let addresses: Vec<_> = listed(text, "app1.example.com.").iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["10.0.0.1", "10.0.0.2", "10.0.0.3", "2001:db8::1"]);
        assert_eq!(listed(text, "app2.example.com"), Vec::<IpAddr>::new());
    }
}
