//! `faulty-hub kill|speed BINARY [MIB] [KILLS|ROUNDS] [SEED|FOLDER]`: the drills, for `cargo xtask models drill`.
//! JSON on stdout; exit code 7 where a rule was broken.

use bitforge_faulty_hub::drill;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let text = |at: usize| args.get(at).map(String::as_str);
    let number = |at: usize, default: usize| text(at).map_or(Some(default), |text| text.parse().ok());
    let outcome = match (text(0), text(1)) {
        (Some("kill"), Some(binary)) => match (number(2, 200), number(3, 50), number(4, 1)) {
            (Some(mib), Some(kills), Some(seed)) => drill::kill(Path::new(binary), mib, kills, seed as u64),
            _ => return usage(),
        },
        (Some("speed"), Some(binary)) => match (number(2, 1024), number(3, 5)) {
            (Some(mib), Some(rounds)) if rounds > 0 => {
                drill::speed(Path::new(binary), mib, rounds, text(4).map(Path::new))
            }
            _ => return usage(),
        },
        _ => return usage(),
    };
    match outcome {
        Ok(report) => {
            println!("{report:#}");
            ExitCode::SUCCESS
        }
        Err(broken) => {
            eprintln!("error: {broken}");
            ExitCode::from(7)
        }
    }
}

fn usage() -> ExitCode {
    eprintln!("usage: faulty-hub kill BINARY [MIB] [KILLS] [SEED] | speed BINARY [MIB] [ROUNDS] [FOLDER]");
    ExitCode::from(2)
}
