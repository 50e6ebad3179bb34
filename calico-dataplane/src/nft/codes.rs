//! The numbers of the nf_tables protocol that expressions are made of (`nftables.md` §13).

macro_rules! numbered {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $number:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant,)* }

        impl $name {
            /// The number of the protocol.
            pub fn number(self) -> u32 {
                match self { $(Self::$variant => $number,)* }
            }

            /// The value behind a number of the protocol.
            pub fn from_number(number: u32) -> Option<Self> {
                match number { $($number => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

numbered! {
    /// What `meta` loads.
    MetaKey {
        /// Packet mark, host order.
        Mark = 3,
        /// Input interface index, host order; 0 for locally generated packets.
        Iif = 4,
        /// Output interface index, host order.
        Oif = 5,
        /// Input interface name, 16 bytes.
        Iifname = 6,
        /// Output interface name, 16 bytes.
        Oifname = 7,
        /// Network family, one byte: 2 or 10.
        Nfproto = 15,
        /// Transport protocol, one byte.
        L4proto = 16,
    }
}

numbered! {
    /// Which header a payload offset counts from.
    PayloadBase {
        /// Link layer.
        Link = 0,
        /// Network header.
        Network = 1,
        /// Transport header.
        Transport = 2,
    }
}

numbered! {
    /// Comparison operators.
    CmpOp {
        /// Equal.
        Eq = 0,
        /// Not equal.
        Neq = 1,
        /// Less.
        Lt = 2,
        /// Less or equal.
        Lte = 3,
        /// Greater.
        Gt = 4,
        /// Greater or equal.
        Gte = 5,
    }
}

numbered! {
    /// What `ct` loads.
    CtKey {
        /// State bits, host order; see [`ct_state`].
        State = 0,
        /// Status bits, host order; see [`ct_status`].
        Status = 2,
        /// Connection mark, host order.
        Mark = 3,
    }
}

numbered! {
    /// What a `fib` look-up returns.
    FibResult {
        /// Interface index; 0 when there is no route.
        Oif = 1,
        /// Interface name.
        Oifname = 2,
        /// Address type; see [`FIB_ADDR_LOCAL`].
        AddrType = 3,
    }
}

numbered! {
    /// How a packet is refused.
    RejectKind {
        /// An ICMP error of the packet's own family.
        IcmpUnreach = 0,
        /// A TCP reset.
        TcpReset = 1,
        /// An ICMP error chosen by family, for `inet` tables.
        IcmpxUnreach = 2,
    }
}

numbered! {
    /// Direction of an address translation.
    NatKind {
        /// Source.
        Snat = 0,
        /// Destination.
        Dnat = 1,
    }
}

/// Bits of [`CtKey::State`].
pub mod ct_state {
    /// Not a valid packet of any connection.
    pub const INVALID: u32 = 1;
    /// Part of a known connection.
    pub const ESTABLISHED: u32 = 2;
    /// Belongs to a known connection, for example an ICMP error.
    pub const RELATED: u32 = 4;
    /// Starts a connection.
    pub const NEW: u32 = 8;
    /// Excluded from connection tracking.
    pub const UNTRACKED: u32 = 0x40;
}

/// Bits of [`CtKey::Status`].
pub mod ct_status {
    /// The destination was translated.
    pub const DNAT: u32 = 0x20;
    /// The source was translated.
    pub const SNAT: u32 = 0x10;
}

/// `fib` address type of this machine's own addresses.
pub const FIB_ADDR_LOCAL: u32 = 2;

/// Flags of a `fib` look-up.
pub mod fib_flags {
    /// Look up the source address.
    pub const SADDR: u32 = 1;
    /// Look up the destination address.
    pub const DADDR: u32 = 2;
    /// Use the packet mark.
    pub const MARK: u32 = 4;
    /// Restrict to the input interface.
    pub const IIF: u32 = 8;
    /// Restrict to the output interface.
    pub const OIF: u32 = 0x10;
}

/// `NF_NAT_RANGE_PROTO_SPECIFIED`.
pub const NAT_PROTO_SPECIFIED: u32 = 2;
/// `NF_NAT_RANGE_PROTO_RANDOM_FULLY`.
pub const NAT_FULLY_RANDOM: u32 = 0x10;
