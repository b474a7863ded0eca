//! Input as edits of something sound, because bytes out of nothing seldom get far.

/// The file with its edits. Each is: where (two bytes, which reach over the first 64 KiB), how many bytes go, how many come, and these.
pub fn edited(sound: &[u8], mut edits: &[u8]) -> Vec<u8> {
    let mut file = sound.to_vec();
    while let Some((&[low, high, go, come], rest)) = edits.split_first_chunk() {
        let start = usize::from(u16::from_le_bytes([low, high])) % (file.len() + 1);
        let end = (start + usize::from(go % 16)).min(file.len());
        let (new, rest) = rest.split_at(usize::from(come % 16).min(rest.len()));
        file.splice(start..end, new.iter().copied());
        edits = rest;
    }
    file
}
