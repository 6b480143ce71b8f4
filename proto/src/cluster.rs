//! Everlog's own API, `everlog.v1`: what an operator sees and steers of a cluster (`everlog/v1/cluster.proto`).

tonic::include_proto!("everlog.v1");

pub use cluster_service_client::ClusterServiceClient;
pub use cluster_service_server::{ClusterService, ClusterServiceServer};

/// The full name of the service.
pub const SERVICE_NAME: &str = cluster_service_server::SERVICE_NAME;

#[cfg(test)]
mod tests {
    use prost::Message;
    use prost_types_plain::FileDescriptorSet;

    /// Every name, number and type of the file. A line that changes or goes breaks whoever speaks the API; new ones are fine.
    #[test]
    fn numbers_stay_what_they_are() {
        let descriptors = FileDescriptorSet::decode(crate::OWN_DESCRIPTORS).unwrap();
        let mut lines = Vec::new();
        for file in &descriptors.file {
            for message in &file.message_type {
                let nested =
                    message.nested_type.iter().map(|nested| (format!("{}.{}", message.name(), nested.name()), nested));
                for (name, message) in std::iter::once((message.name().to_owned(), message)).chain(nested) {
                    for field in &message.field {
                        let kind = field.type_name.clone().unwrap_or_else(|| format!("{:?}", field.r#type()));
                        lines.push(format!("{name}.{} = {} {kind} {:?}", field.name(), field.number(), field.label()));
                    }
                }
            }
            for kind in &file.enum_type {
                lines.extend(kind.value.iter().map(|value| format!("{} = {}", value.name(), value.number())));
            }
            for service in &file.service {
                let methods = service.method.iter();
                lines.extend(
                    methods
                        .map(|method| format!("{}({}) {}", method.name(), method.input_type(), method.output_type())),
                );
            }
        }
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/everlog/v1/golden.txt");
        let text = lines.join("\n") + "\n";
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(golden, &text).unwrap();
        }
        let known = std::fs::read_to_string(golden).unwrap();
        assert_eq!(text, known, "UPDATE_GOLDEN=1 writes what was added to {golden}");
    }
}
