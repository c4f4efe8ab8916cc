package bench;

import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.state.KeyValueStore;

/** Folds a backlog into the current position of each arm. */
public final class Fold {
  public static void main(String[] arguments) throws Exception {
    Backlog backlog = new Backlog(arguments);
    StreamsBuilder builder = new StreamsBuilder();
    Serde<Arm> arms =
        Serdes.serdeFrom((name, arm) -> arm == null ? null : arm.bytes(), (name, data) -> data == null ? null : Arm.parse(data));
    builder.stream(backlog.topic, Consumed.with(Serdes.String(), Event.SERDE))
        .groupByKey()
        .aggregate(
            () -> new Arm(8),
            (name, event, arm) -> {
              backlog.counted();
              return arm.apply(event);
            },
            Materialized.<String, Arm, KeyValueStore<Bytes, byte[]>>as("positions")
                .withKeySerde(Serdes.String())
                .withValueSerde(arms)
                .withStoreType(Materialized.StoreType.IN_MEMORY));
    backlog.run(builder, streams -> "");
  }
}
