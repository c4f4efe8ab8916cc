package bench;

import java.time.Duration;
import java.util.Map;
import java.util.SortedMap;
import java.util.TreeMap;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.KeyValue;
import org.apache.kafka.streams.StoreQueryParameters;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.KGroupedStream;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.TimeWindows;
import org.apache.kafka.streams.kstream.Windowed;
import org.apache.kafka.streams.processor.api.FixedKeyProcessor;
import org.apache.kafka.streams.processor.api.FixedKeyProcessorContext;
import org.apache.kafka.streams.processor.api.FixedKeyRecord;
import org.apache.kafka.streams.state.KeyValueIterator;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.QueryableStoreTypes;
import org.apache.kafka.streams.state.Stores;
import org.apache.kafka.streams.state.WindowStore;

/** Folds a backlog into the time that each arm and each of its axes was in motion or still, in windows of a second, a minute, an hour. */
public final class Motion {
  private static final String VERDICTS = "verdicts";
  private static final String HOURS = "hours";
  private static final SortedMap<String, Duration> WINDOWS =
      new TreeMap<>(Map.of("seconds", Duration.ofSeconds(1), "minutes", Duration.ofMinutes(1), HOURS, Duration.ofHours(1)));
  private static final Duration GRACE = Duration.ofSeconds(2);

  public static void main(String[] arguments) throws Exception {
    Backlog backlog = new Backlog(arguments);
    StreamsBuilder builder = new StreamsBuilder();
    topology(builder, backlog);
    backlog.run(builder, Motion::sums);
  }

  static void topology(StreamsBuilder builder, Backlog backlog) {
    builder.addStateStore(
        Stores.keyValueStoreBuilder(Stores.inMemoryKeyValueStore(VERDICTS), Serdes.String(), Serdes.ByteArray())
            .withCachingEnabled());
    Serde<Span> spans = Serdes.serdeFrom((name, span) -> null, (name, data) -> null); // they are never written
    Serde<Totals> totals =
        Serdes.serdeFrom((name, sum) -> sum == null ? null : sum.bytes(), (name, data) -> data == null ? null : Totals.parse(data));
    KGroupedStream<String, Span> judged =
        builder.stream(backlog.topic, Consumed.with(Serdes.String(), Event.SERDE))
            .processValues(() -> new Judge(backlog), VERDICTS)
            .groupByKey(Grouped.with(Serdes.String(), spans));
    WINDOWS.forEach(
        (name, length) ->
            judged
                .windowedBy(TimeWindows.ofSizeAndGrace(length, GRACE))
                .aggregate(
                    () -> new Totals(6),
                    (arm, span, sum) -> sum.add(span),
                    Materialized.<String, Totals, WindowStore<Bytes, byte[]>>as(name)
                        .withKeySerde(Serdes.String())
                        .withValueSerde(totals)
                        .withStoreType(Materialized.StoreType.IN_MEMORY)));
  }

  /** Of all windows of an hour, to be compared. */
  private static String sums(KafkaStreams streams) {
    long[] sums = new long[4];
    var hours = streams.store(StoreQueryParameters.fromNameAndType(HOURS, QueryableStoreTypes.<String, Totals>windowStore()));
    try (KeyValueIterator<Windowed<String>, Totals> all = hours.all()) {
      while (all.hasNext()) {
        KeyValue<Windowed<String>, Totals> window = all.next();
        sums[0] += window.value.movingUs;
        sums[1] += window.value.stillUs;
        sums[2] += window.value.axesMovingUs();
        sums[3] += window.value.axesStillUs();
      }
    }
    return String.format(
        ", \"moving_us\": %d, \"still_us\": %d, \"axes_moving_us\": %d, \"axes_still_us\": %d", sums[0], sums[1], sums[2], sums[3]);
  }

  /** Event in; out what it says of the time since the one before, with that time as the record's. */
  private static final class Judge implements FixedKeyProcessor<String, Event, Span> {
    private final Backlog backlog;
    private FixedKeyProcessorContext<String, Span> context;
    private KeyValueStore<String, byte[]> verdicts;

    Judge(Backlog backlog) {
      this.backlog = backlog;
    }

    @Override
    public void init(FixedKeyProcessorContext<String, Span> context) {
      this.context = context;
      verdicts = context.getStateStore(VERDICTS);
    }

    @Override
    public void process(FixedKeyRecord<String, Event> record) {
      Event event = record.value();
      Verdict verdict = Verdict.parse(verdicts.get(record.key()), event.count);
      // A window of Kafka's ends before its end, one of ours with it: hence the microsecond.
      verdict.judge(event, span -> context.forward(record.withValue(span).withTimestamp((span.uptoUs - 1) / 1000)));
      verdicts.put(record.key(), verdict.bytes());
      backlog.counted();
    }
  }
}
