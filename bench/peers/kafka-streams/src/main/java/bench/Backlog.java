package bench;

import com.sun.management.OperatingSystemMXBean;
import java.lang.management.ManagementFactory;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.function.Function;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;

/**
 * Runs a topology over a backlog, and prints what that took as JSON. Arguments of each program: BROKERS TOPIC EVENTS NAME FOLDER.
 *
 * <p>The second half of the backlog is told: by then the code is compiled.
 */
final class Backlog {
  private static final OperatingSystemMXBean SYSTEM =
      (OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean();

  final String topic;
  private final long events;
  private final Properties settings = new Properties();
  private final CountDownLatch done = new CountDownLatch(1);
  private long count;
  private final long[] times = new long[2];
  private final long[] cpu = new long[2];

  Backlog(String[] arguments) {
    topic = arguments[1];
    events = Long.parseLong(arguments[2]);
    settings.put("bootstrap.servers", arguments[0]);
    settings.put("application.id", arguments[3]);
    settings.put("state.dir", arguments[4]);
    settings.put("num.stream.threads", "1");
    settings.put("consumer.auto.offset.reset", "earliest");
  }

  /** `more`: further JSON, of what came of it. */
  void run(StreamsBuilder builder, Function<KafkaStreams, String> more) throws Exception {
    KafkaStreams streams = new KafkaStreams(builder.build(settings), settings);
    streams.start();
    if (!done.await(120, TimeUnit.SECONDS)) {
      System.err.println(count + " of " + events + " events in 120 s");
      System.exit(1);
    }
    report(more.apply(streams));
    streams.close(Duration.ofSeconds(10));
  }

  /** To be called by the one thread that folds, once for each event. */
  void counted() {
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

  private void report(String more) throws Exception {
    String status = Files.readString(Path.of("/proc/self/status"));
    long rss = Long.parseLong(status.replaceAll("(?s).*VmRSS:\\s*(\\d+).*", "$1")) * 1024;
    System.out.printf(
        "{\"events\": %d, \"seconds\": %.6f, \"cpu_s\": %.6f, \"rss_after\": %d%s}%n",
        events - events / 2, (times[1] - times[0]) / 1e9, (cpu[1] - cpu[0]) / 1e9, rss, more);
    System.out.flush();
  }
}
