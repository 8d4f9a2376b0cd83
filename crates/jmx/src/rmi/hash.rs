//! Method hashes: the first 8 bytes of SHA-1 over `UTF(name + descriptor)`, read as a little-endian number (RMI
//! specification, "method hash"). A test recomputes them; they equal the constants in the JDK's stub classes.

/// A remote method: how it is dispatched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Method {
    /// Name and descriptor that the hash is made of; empty for the registry's interface hash.
    pub signature: &'static str,
    /// -1 for methods that are found by their hash.
    pub operation: i32,
    /// The hash.
    pub hash: i64,
}

const fn method(signature: &'static str, hash: i64) -> Method {
    Method { signature, operation: -1, hash }
}

/// `lookup(String)` of the registry: operation 2 and the interface hash of `RegistryImpl_Skel`.
pub const LOOKUP: Method = Method { signature: "", operation: 2, hash: 4_905_912_898_345_647_071 };
/// `lookup(String)` by hash, for a registry without skeleton.
pub const LOOKUP_BY_HASH: Method =
    method("lookup(Ljava/lang/String;)Ljava/rmi/Remote;", -7_538_657_168_040_752_697);
/// `RMIServer.newClient(Object)`.
pub const NEW_CLIENT: Method = method(
    "newClient(Ljava/lang/Object;)Ljavax/management/remote/rmi/RMIConnection;",
    -1_089_742_558_549_201_240,
);
/// `RMIConnection.close()`.
pub const CLOSE: Method = method("close()V", -4_742_752_445_160_157_748);
/// `RMIConnection.getDefaultDomain(Subject)`.
pub const GET_DEFAULT_DOMAIN: Method =
    method("getDefaultDomain(Ljavax/security/auth/Subject;)Ljava/lang/String;", 6_047_668_923_998_658_472);
/// `RMIConnection.getAttribute(ObjectName, String, Subject)`.
pub const GET_ATTRIBUTE: Method = method(
    "getAttribute(Ljavax/management/ObjectName;Ljava/lang/String;Ljavax/security/auth/Subject;)Ljava/lang/Object;",
    -1_089_783_104_982_388_203,
);
/// `RMIConnection.getAttributes(ObjectName, String[], Subject)`.
pub const GET_ATTRIBUTES: Method = method(
    "getAttributes(Ljavax/management/ObjectName;[Ljava/lang/String;Ljavax/security/auth/Subject;)Ljavax/management/AttributeList;",
    6_285_293_806_596_348_999,
);
/// `RMIConnection.invoke(ObjectName, String, MarshalledObject, String[], Subject)`.
pub const INVOKE: Method = method(
    "invoke(Ljavax/management/ObjectName;Ljava/lang/String;Ljava/rmi/MarshalledObject;[Ljava/lang/String;Ljavax/security/auth/Subject;)Ljava/lang/Object;",
    1_434_350_937_885_235_744,
);
/// `RMIConnection.queryNames(ObjectName, MarshalledObject, Subject)`.
pub const QUERY_NAMES: Method = method(
    "queryNames(Ljavax/management/ObjectName;Ljava/rmi/MarshalledObject;Ljavax/security/auth/Subject;)Ljava/util/Set;",
    9_152_567_528_369_059_802,
);
/// `RMIConnection.isRegistered(ObjectName, Subject)`.
pub const IS_REGISTERED: Method = method(
    "isRegistered(Ljavax/management/ObjectName;Ljavax/security/auth/Subject;)Z",
    8_325_683_335_228_268_564,
);
/// `RMIConnection.getMBeanInfo(ObjectName, Subject)`.
pub const GET_MBEAN_INFO: Method = method(
    "getMBeanInfo(Ljavax/management/ObjectName;Ljavax/security/auth/Subject;)Ljavax/management/MBeanInfo;",
    -7_404_813_916_326_233_354,
);
/// `RMIConnection.setAttribute(ObjectName, MarshalledObject, Subject)`.
pub const SET_ATTRIBUTE: Method = method(
    "setAttribute(Ljavax/management/ObjectName;Ljava/rmi/MarshalledObject;Ljavax/security/auth/Subject;)V",
    6_738_606_893_952_597_516,
);

/// All of the above that have a signature.
pub const ALL: [Method; 11] = [
    LOOKUP_BY_HASH,
    NEW_CLIENT,
    CLOSE,
    GET_DEFAULT_DOMAIN,
    GET_ATTRIBUTE,
    GET_ATTRIBUTES,
    INVOKE,
    QUERY_NAMES,
    IS_REGISTERED,
    GET_MBEAN_INFO,
    SET_ATTRIBUTE,
];
