//! Times as AWS writes them, to the second, in UTC.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DAY_SECONDS: u64 = 86_400;

/// `20261124T101112Z`, as it is signed.
pub(super) fn basic(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (year, month, day) = civil(seconds / DAY_SECONDS);
    let of_day = seconds % DAY_SECONDS;
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

/// Unix milliseconds of `2026-11-24T10:11:12Z`, with a fraction or an offset perhaps; `None` when it is no such time.
pub(super) fn parse(text: &str) -> Option<i64> {
    let (date, rest) = text.split_once(['T', ' '])?;
    let clock = rest.get(..8)?;
    let zone = rest.get(8..)?.trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
    let [year, month, day] = numbers(date, '-')?;
    let [hour, minute, second] = numbers(clock, ':')?;
    let in_range = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60;
    if !in_range {
        return None;
    }
    let offset = match zone.chars().next()? {
        'Z' if zone.len() == 1 => 0,
        sign @ ('+' | '-') => {
            let [hours, minutes] = numbers(zone.get(1..)?, ':')?;
            let seconds = i64::try_from(hours * 3600 + minutes * 60).ok()?;
            if sign == '+' { seconds } else { -seconds }
        }
        _ => return None,
    };
    let seconds = days(year, month, day) * DAY_SECONDS + hour * 3600 + minute * 60 + second;
    i64::try_from(seconds).ok()?.checked_sub(offset)?.checked_mul(1000)
}

/// Unix milliseconds now.
pub(super) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn numbers<const N: usize>(text: &str, separator: char) -> Option<[u64; N]> {
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit()).then(|| part.parse().ok())?;
    let parts: Option<Vec<u64>> = text.split(separator).map(digits).collect();
    parts?.try_into().ok()
}

/// Days since 1970-01-01; years from 1970.
fn days(year: u64, month: u64, day: u64) -> u64 {
    // March is the first month of a year that ends with the leap day.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468
}

fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_and_read() {
        for (seconds, basic_text, text) in [
            (0, "19700101T000000Z", "1970-01-01T00:00:00Z"),
            (951_782_399, "20000228T235959Z", "2000-02-28T23:59:59Z"),
            (951_782_400, "20000229T000000Z", "2000-02-29T00:00:00.123Z"),
            (1_795_515_072, "20261124T101112Z", "2026-11-24T12:11:12+02:00"),
            (4_107_542_400, "21000301T000000Z", "2100-03-01 00:00:00Z"),
        ] {
            assert_eq!(basic(UNIX_EPOCH + Duration::from_secs(seconds)), basic_text);
            assert_eq!(parse(text), i64::try_from(seconds * 1000).ok(), "{text}");
        }
        for bad in
            ["", "2026-11-24", "2026-13-01T00:00:00Z", "2026-11-24T10:11:12", "+026-11-24T10:11:12Z", "1e9"]
        {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
