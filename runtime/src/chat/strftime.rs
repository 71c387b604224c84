//! `strftime` for chat templates: a date and time of day in UTC, in English.
//!
//! Dates follow the proleptic Gregorian calendar (Howard Hinnant's days-to-civil algorithm). Deliberately absent:
//! time zones and locales, and directives that no template uses.

use std::time::{SystemTime, UNIX_EPOCH};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];

/// `format` with its directives filled in; `Err` names a directive that is not supported.
pub(super) fn format(format: &str, now: SystemTime) -> Result<String, String> {
    let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    let (month_name, day_name) = (MONTHS[month as usize - 1], DAYS[(days % 7) as usize]);
    let mut text = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        let directive = chars.next();
        text.push_str(&match directive {
            Some('Y') => year.to_string(),
            Some('y') => format!("{:02}", year % 100),
            Some('m') => format!("{month:02}"),
            Some('B') => month_name.to_string(),
            Some('b') => month_name[..3].to_string(),
            Some('d') => format!("{day:02}"),
            Some('e') => format!("{day:2}"),
            Some('A') => day_name.to_string(),
            Some('a') => day_name[..3].to_string(),
            Some('H') => format!("{hour:02}"),
            Some('I') => format!("{:02}", (hour + 11) % 12 + 1),
            Some('p') => if hour < 12 { "AM" } else { "PM" }.to_string(),
            Some('M') => format!("{minute:02}"),
            Some('S') => format!("{:02}", second % 60),
            Some('F') => format!("{year}-{month:02}-{day:02}"),
            Some('T') => format!("{hour:02}:{minute:02}:{:02}", second % 60),
            Some('Z') => "UTC".to_string(),
            Some('z') => "+0000".to_string(),
            Some('%') => "%".to_string(),
            Some(other) => return Err(format!("strftime_now does not know %{other}")),
            None => return Err("strftime_now: the format ends in %".to_string()),
        });
    }
    Ok(text)
}

/// Days since 1970-01-01 to (year, month, day).
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468; // since 0000-03-01
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153; // March is 0
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn dates_are_right_at_the_edges_of_the_calendar() {
        let at = |seconds: u64, directives: &str| {
            format(directives, UNIX_EPOCH + Duration::from_secs(seconds)).expect("supported directives")
        };
        assert_eq!(at(0, "%A %F %T %p"), "Thursday 1970-01-01 00:00:00 AM");
        assert_eq!(at(951_782_400 + 86_399, "%a %d %b %Y %I:%M:%S %p"), "Tue 29 Feb 2000 11:59:59 PM");
        assert_eq!(at(951_868_800, "%e %B %y %H%%"), " 1 March 00 00%");
        assert_eq!(at(1_735_603_200, "%d %B %Y, %A"), "31 December 2024, Tuesday");
        assert_eq!(at(4_107_542_400, "%F %a %Z%z"), "2100-03-01 Mon UTC+0000");
        assert_eq!(format("%Q", UNIX_EPOCH), Err("strftime_now does not know %Q".to_string()));
        assert!(format("%", UNIX_EPOCH).is_err());
    }
}
