//! A record as a line of JSON, byte for byte as Folders.java prints it, so that files can be compared.
//!
//! Always true here: bytes that are UTF-8 are text, others are `{"base64":"..."}`; null is null.

use thalweg_core::batch::BatchHeader;
use thalweg_core::record::RecordRef;

/// Adds the line of a record of `topic`, of the batch with this header.
pub(crate) fn line(
    out: &mut String,
    topic: &str,
    partition: u32,
    header: &BatchHeader,
    record: &RecordRef<'_>,
) {
    *out += "{\"topic\":";
    text(out, Some(topic.as_bytes()));
    let kind = if header.attributes.log_append_time() { "LogAppendTime" } else { "CreateTime" };
    *out += &format!(
        ",\"partition\":{partition},\"offset\":{},\"timestamp\":{},\"timestamp_type\":\"{kind}\"",
        record.offset, record.timestamp
    );
    *out += ",\"key\":";
    text(out, record.key);
    *out += ",\"value\":";
    text(out, record.value);
    *out += ",\"headers\":[";
    for (number, (key, value)) in record.headers.iter().enumerate() {
        *out += if number == 0 { "{\"key\":" } else { ",{\"key\":" };
        text(out, Some(key));
        *out += ",\"value\":";
        text(out, value);
        out.push('}');
    }
    *out += &format!("],\"epoch\":{}}}\n", header.leader_epoch);
}

fn text(out: &mut String, bytes: Option<&[u8]>) {
    let Some(bytes) = bytes else {
        *out += "null";
        return;
    };
    let Ok(text) = std::str::from_utf8(bytes) else {
        *out += &format!("{{\"base64\":\"{}\"}}", base64(bytes));
        return;
    };
    out.push('"');
    for letter in text.chars() {
        match letter {
            '"' | '\\' => out.extend(['\\', letter]),
            '\0'..='\x1f' => *out += &format!("\\u{:04x}", u32::from(letter)),
            _ => out.push(letter),
        }
    }
    out.push('"');
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let word = (0..3).fold(0u32, |word, at| {
            (word << 8) | u32::from(three.get(at).copied().unwrap_or_default())
        });
        for at in 0..4 {
            let letter = LETTERS[(word >> (18 - 6 * at)) as usize & 63];
            text.push(if at <= three.len() { char::from(letter) } else { '=' });
        }
    }
    text
}
