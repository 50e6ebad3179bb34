//! Limits of traffic from annotations of pods.

use crate::Labels;
use crate::error::FieldError;
use crate::resource::endpoint::QosControls;

/// Prefix of Calico's annotations.
pub const PREFIX: &str = "qos.projectcalico.org/";

/// Bounds of a quantity, in its unit.
#[derive(Clone, Copy)]
struct Bounds {
    min: i64,
    max: i64,
    unit: &'static str,
}

const BANDWIDTH: Bounds = Bounds { min: 1_000, max: 1_000_000_000_000_000, unit: "bit/s" };
const BURST: Bounds = Bounds { min: 1_000, max: 34_359_738_360, unit: "bit" };
const PEAK_RATE: Bounds = Bounds { min: 1_010, max: 1_010_000_000_000_000, unit: "bit/s" };
const MIN_BURST: Bounds = Bounds { min: 1_000, max: 100_000_000, unit: "byte" };
const PACKET_RATE: Bounds = Bounds { min: 1, max: 10_000, unit: "packet/s" };
const PACKET_BURST: Bounds = Bounds { min: 1, max: 10_000, unit: "packet" };
const CONNECTIONS: Bounds = Bounds { min: 1, max: 4_294_967_295, unit: "connection" };

/// Burst of an endpoint with a bandwidth but no burst, in bits.
pub const DEFAULT_BURST: i64 = 4 << 30;
/// Burst of an endpoint with a packet rate but no burst, in packets.
pub const DEFAULT_PACKET_BURST: i64 = 5;

/// The limits that the annotations of a pod ask for. Values out of bounds are moved to the bound and reported; values
/// that need another one are dropped without it and reported. Problems never keep an endpoint from working.
///
/// ```
/// use calico_model::k8s::qos;
/// let annotations = [("qos.projectcalico.org/ingressBandwidth".to_owned(), "10M".to_owned())].into();
/// let (limits, problems) = qos::from_annotations(&annotations);
/// assert_eq!(limits.unwrap().ingress_bandwidth, 10_000_000);
/// assert!(problems.is_empty());
/// ```
pub fn from_annotations(annotations: &Labels) -> (Option<QosControls>, Vec<FieldError>) {
    let mut reader = Reader { annotations, problems: Vec::new() };
    let mut q = QosControls::default();
    for (ingress, direction) in [(true, "ingress"), (false, "egress")] {
        let kubernetes = format!("kubernetes.io/{direction}-bandwidth");
        let mut d = Direction {
            bandwidth: reader.quantity(&kubernetes, BANDWIDTH).unwrap_or(0),
            ..Direction::default()
        };
        let own = |what: &str| format!("{PREFIX}{direction}{what}");
        if let Some(bandwidth) = reader.quantity(&own("Bandwidth"), BANDWIDTH) {
            d.bandwidth = bandwidth;
        }
        d.burst = reader.quantity(&own("Burst"), BURST).unwrap_or(0);
        d.peakrate = reader.quantity(&own("Peakrate"), PEAK_RATE).unwrap_or(0);
        d.minburst = reader.quantity(&own("Minburst"), MIN_BURST).unwrap_or(0);
        d.packet_rate = reader.quantity(&own("PacketRate"), PACKET_RATE).unwrap_or(0);
        d.packet_burst = reader.quantity(&own("PacketBurst"), PACKET_BURST).unwrap_or(0);
        d.max_connections = reader.quantity(&own("MaxConnections"), CONNECTIONS).unwrap_or(0);
        d.settle(direction, &mut reader.problems);
        d.store(ingress, &mut q);
    }
    let key = format!("{PREFIX}dscp");
    if let Some(text) = annotations.get(&key) {
        match text.parse() {
            Ok(dscp) => q.dscp = Some(dscp),
            Err(e) => reader.problems.push(annotation_error(&key, crate::DscpError::to_string(&e))),
        }
    }
    let limits = (q != QosControls::default()).then_some(q);
    (limits, reader.problems)
}

fn annotation_error(key: &str, reason: String) -> FieldError {
    FieldError::new(format!("metadata.annotations[{key:?}]"), reason)
}

struct Reader<'a> {
    annotations: &'a Labels,
    problems: Vec<FieldError>,
}

impl Reader<'_> {
    fn quantity(&mut self, key: &str, bounds: Bounds) -> Option<i64> {
        let text = self.annotations.get(key)?;
        let Some(value) = parse_quantity(text) else {
            let reason = format!("{text:?} is not a quantity such as 500k, 10M or 1Gi");
            self.problems.push(annotation_error(key, reason));
            return Some(0);
        };
        let kept = value.clamp(bounds.min, bounds.max);
        if kept != value {
            let Bounds { min, max, unit } = bounds;
            let reason = format!("{text} is not within {min} and {max} {unit}; {kept} is used");
            self.problems.push(annotation_error(key, reason));
        }
        Some(kept)
    }
}

#[derive(Default)]
struct Direction {
    bandwidth: i64,
    burst: i64,
    peakrate: i64,
    minburst: i64,
    packet_rate: i64,
    packet_burst: i64,
    max_connections: i64,
}

impl Direction {
    /// Drops values whose base is missing and fills in bursts.
    fn settle(&mut self, direction: &str, problems: &mut Vec<FieldError>) {
        let mut drop = |value: &mut i64, what: &str, wrong: bool, reason: &str| {
            if *value != 0 && wrong {
                *value = 0;
                problems.push(annotation_error(
                    &format!("{PREFIX}{direction}{what}"),
                    format!("{reason}; ignored"),
                ));
            }
        };
        drop(&mut self.burst, "Burst", self.bandwidth == 0, "needs a bandwidth");
        let low = self.bandwidth == 0 || self.bandwidth >= self.peakrate;
        drop(&mut self.peakrate, "Peakrate", low, "needs a bandwidth that is lower");
        drop(&mut self.minburst, "Minburst", self.peakrate == 0, "needs a peak rate");
        drop(&mut self.packet_burst, "PacketBurst", self.packet_rate == 0, "needs a packet rate");
        if self.bandwidth != 0 && self.burst == 0 {
            self.burst = DEFAULT_BURST;
        }
        if self.packet_rate != 0 && self.packet_burst == 0 {
            self.packet_burst = DEFAULT_PACKET_BURST;
        }
    }

    fn store(self, ingress: bool, q: &mut QosControls) {
        if ingress {
            q.ingress_bandwidth = self.bandwidth;
            q.ingress_burst = self.burst;
            q.ingress_peakrate = self.peakrate;
            q.ingress_minburst = self.minburst;
            q.ingress_packet_rate = self.packet_rate;
            q.ingress_packet_burst = self.packet_burst;
            q.ingress_max_connections = self.max_connections;
        } else {
            q.egress_bandwidth = self.bandwidth;
            q.egress_burst = self.burst;
            q.egress_peakrate = self.peakrate;
            q.egress_minburst = self.minburst;
            q.egress_packet_rate = self.packet_rate;
            q.egress_packet_burst = self.packet_burst;
            q.egress_max_connections = self.max_connections;
        }
    }
}

/// Reads a Kubernetes quantity (`1500m`, `10M`, `4Gi`, `1e3`), rounded up to a whole number as Kubernetes does.
/// Values beyond 64 bits saturate.
pub fn parse_quantity(text: &str) -> Option<i64> {
    let (negative, rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    let (number, suffix) = rest.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') || whole.len() + fraction.len() > 24
    {
        return None;
    }
    // value = digits * scale_up / scale_down, exactly.
    let mut up: u128 = 1;
    let mut down: u128 = 10u128.pow(u32::try_from(fraction.len()).ok()?);
    match suffix {
        "" => {}
        "n" => down = down.checked_mul(1_000_000_000)?,
        "u" => down = down.checked_mul(1_000_000)?,
        "m" => down = down.checked_mul(1_000)?,
        "k" => up = 1_000,
        "M" => up = 1_000_000,
        "G" => up = 1_000_000_000,
        "T" => up = 1_000_000_000_000,
        "P" => up = 1_000_000_000_000_000,
        "E" => up = 1_000_000_000_000_000_000,
        "Ki" => up = 1 << 10,
        "Mi" => up = 1 << 20,
        "Gi" => up = 1 << 30,
        "Ti" => up = 1 << 40,
        "Pi" => up = 1 << 50,
        "Ei" => up = 1 << 60,
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            let power = 10u128.checked_pow(exponent.unsigned_abs())?;
            if exponent < 0 {
                down = down.checked_mul(power)?;
            } else {
                up = power;
            }
        }
    }
    let digits = format!("{whole}{fraction}").parse::<u128>().ok()?;
    let scaled = digits.saturating_mul(up);
    let value = if negative { scaled / down } else { scaled.div_ceil(down) };
    let value = i64::try_from(value).unwrap_or(i64::MAX);
    Some(if negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> (Option<QosControls>, Vec<String>) {
        let annotations = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let (q, problems) = from_annotations(&annotations);
        (q, problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn quantities() {
        for (text, value) in [
            ("1", 1),
            ("1k", 1_000),
            ("1.01k", 1_010),
            ("4Gi", 4 << 30),
            ("1500m", 2),
            ("1e3", 1_000),
            ("12E2", 1_200),
            ("-1500m", -1),
            ("0.5Ki", 512),
            ("9E", 9_000_000_000_000_000_000),
            ("100E", i64::MAX),
        ] {
            assert_eq!(parse_quantity(text), Some(value), "{text}");
        }
        for bad in ["", "k", "1kk", "1.2.3", "x", "1 k", "1e", "-", "+", "."] {
            assert_eq!(parse_quantity(bad), None, "{bad}");
        }
    }

    #[test]
    fn bounds_and_dependencies() {
        let (q, problems) = read(&[
            ("kubernetes.io/ingress-bandwidth", "5M"),
            ("qos.projectcalico.org/ingressBandwidth", "10M"),
            ("qos.projectcalico.org/ingressPeakrate", "20M"),
            ("qos.projectcalico.org/egressPacketRate", "20k"),
            ("qos.projectcalico.org/egressMinburst", "2k"),
            ("qos.projectcalico.org/dscp", "EF"),
        ]);
        let q = q.unwrap();
        assert_eq!(
            (q.ingress_bandwidth, q.ingress_burst, q.ingress_peakrate),
            (10_000_000, DEFAULT_BURST, 20_000_000)
        );
        assert_eq!((q.egress_packet_rate, q.egress_packet_burst, q.egress_minburst), (10_000, 5, 0));
        assert_eq!(q.dscp.unwrap().value(), 46);
        assert_eq!(
            problems,
            [
                "metadata.annotations[\"qos.projectcalico.org/egressPacketRate\"]: 20k is not within 1 and 10000 \
                 packet/s; 10000 is used",
                "metadata.annotations[\"qos.projectcalico.org/egressMinburst\"]: needs a peak rate; ignored",
            ]
        );
        assert_eq!(read(&[("unrelated", "1")]), (None, vec![]));
        let (q, problems) =
            read(&[("qos.projectcalico.org/ingressBurst", "1M"), ("qos.projectcalico.org/dscp", "99")]);
        assert_eq!((q, problems.len()), (None, 2));
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in "[-+0-9.eEkMGiPm]{0,30}") {
            let _ = parse_quantity(&text);
        }
    }
}
