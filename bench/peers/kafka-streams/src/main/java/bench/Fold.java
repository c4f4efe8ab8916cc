package bench;

import com.sun.management.OperatingSystemMXBean;
import java.lang.management.ManagementFactory;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.state.KeyValueStore;

/**
 * Folds a backlog into the current position of each arm, and prints what that took as JSON: Fold BROKERS TOPIC EVENTS NAME FOLDER.
 *
 * <p>The second half of the backlog is told: by then the code is compiled.
 */
public final class Fold {
  private static final OperatingSystemMXBean SYSTEM =
      (OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean();

  private final long events;
  private final CountDownLatch done = new CountDownLatch(1);
  private long count;
  private final long[] times = new long[2];
  private final long[] cpu = new long[2];

  private Fold(long events) {
    this.events = events;
  }

  public static void main(String[] arguments) throws Exception {
    Fold fold = new Fold(Long.parseLong(arguments[2]));
    Properties settings = new Properties();
    settings.put("bootstrap.servers", arguments[0]);
    settings.put("application.id", arguments[3]);
    settings.put("state.dir", arguments[4]);
    settings.put("num.stream.threads", "1");
    settings.put("consumer.auto.offset.reset", "earliest");
    StreamsBuilder builder = new StreamsBuilder();
    fold.topology(builder, arguments[1]);
    KafkaStreams streams = new KafkaStreams(builder.build(settings), settings);
    streams.start();
    if (!fold.done.await(120, TimeUnit.SECONDS)) {
      System.err.println(fold.count + " of " + fold.events + " events in 120 s");
      System.exit(1);
    }
    fold.report();
    streams.close(Duration.ofSeconds(10));
  }

  private void topology(StreamsBuilder builder, String topic) {
    Serde<Event> events = Serdes.serdeFrom((name, event) -> null, (name, data) -> Event.parse(data));
    Serde<Arm> arms =
        Serdes.serdeFrom((name, arm) -> arm == null ? null : arm.bytes(), (name, data) -> data == null ? null : Arm.parse(data));
    builder.stream(topic, Consumed.with(Serdes.String(), events))
        .groupByKey()
        .aggregate(
            () -> new Arm(8),
            (name, event, arm) -> {
              counted();
              return arm.apply(event);
            },
            Materialized.<String, Arm, KeyValueStore<Bytes, byte[]>>as("positions")
                .withKeySerde(Serdes.String())
                .withValueSerde(arms)
                .withStoreType(Materialized.StoreType.IN_MEMORY));
  }

  private void counted() {
    count++;
    if (count == events / 2) {
      note(0);
    } else if (count == events) {
      note(1);
      done.countDown();
    }
  }

  private void note(int at) {
    times[at] = System.nanoTime();
    cpu[at] = SYSTEM.getProcessCpuTime();
  }

  private void report() throws Exception {
    String status = Files.readString(Path.of("/proc/self/status"));
    long rss = Long.parseLong(status.replaceAll("(?s).*VmRSS:\\s*(\\d+).*", "$1")) * 1024;
    System.out.printf(
        "{\"events\": %d, \"seconds\": %.6f, \"cpu_s\": %.6f, \"rss_after\": %d}%n",
        events - events / 2, (times[1] - times[0]) / 1e9, (cpu[1] - cpu[0]) / 1e9, rss);
    System.out.flush();
  }
}
