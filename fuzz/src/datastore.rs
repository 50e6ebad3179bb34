use bytes::BytesMut;
use calico_datastore::fanout::frame::{MAX_CLIENT_FRAME, decode};
use calico_datastore::{codec, yaml};
use calico_model::{Key, Revision};

/// Stored values: the first line is the path, the rest what is stored there. Whatever can be read is written in a
/// form that reads back as the same.
pub fn datastore_value(data: &[u8]) {
    let Some(cut) = data.iter().position(|byte| *byte == b'\n') else { return };
    let (path, value) = (&data[..cut], &data[cut + 1..]);
    let Ok(key) = std::str::from_utf8(path).map_err(drop).and_then(|path| Key::parse(path).map_err(drop))
    else {
        return;
    };
    let revision = Revision::from(1);
    let Ok(first) = codec::decode(&key, value, &revision) else { return };
    let stored = codec::encode(&first);
    let second = codec::decode(&key, &stored, &revision).expect("what was written can be read");
    assert_eq!(codec::encode(&second), stored, "the written form is stable");
}

/// Frames of the fan-out, from either side.
pub fn fanout_frame(data: &[u8]) {
    let mut buffer = BytesMut::from(data);
    while let Ok(Some(frame)) = decode(&mut buffer, MAX_CLIENT_FRAME) {
        let mut again = BytesMut::from(&frame.encode()[..]);
        // Defaults that were spelled out are left out: what is written may be shorter, never longer.
        assert_eq!(decode(&mut again, usize::MAX), Ok(Some(frame)));
        assert!(again.is_empty());
    }
}

/// Manifests: YAML and JSON streams. Every tree that is read can be written and read again.
pub fn manifest(data: &[u8]) {
    let Ok(documents) = yaml::parse_bytes(data) else { return };
    let mut last = 0;
    for document in documents {
        assert!(document.number > last, "documents are numbered in order");
        last = document.number;
        let text = yaml::to_string(&document.value);
        let again = yaml::parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert_eq!(again.len(), 1, "{text}");
        assert_eq!(again[0].value, document.value, "{text}");
    }
}
