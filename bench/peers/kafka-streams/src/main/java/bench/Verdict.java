package bench;

import java.nio.ByteBuffer;
import java.util.function.Consumer;

/** How far an arm has been judged, by the rule of the view arm_motion: anchors, and when each axis last left the band around its own. */
final class Verdict {
  private static final double BAND = 5e-4;
  private static final long SETTLE_US = 200_000;
  private static final long MAX_GAP_US = 1_000_000;
  private static final long NEVER_US = -3_600_000_000L;
  private static final long SECOND_US = 1_000_000;
  private static final int SIZE = Integer.BYTES + Double.BYTES + 2 * Long.BYTES;

  private long sampledAtUs = NEVER_US;
  private long leftUs = NEVER_US;
  private int count;
  private final int[] axes;
  private final double[] anchors;
  private final long[] sampled;
  private final long[] left;

  Verdict(int room) {
    axes = new int[room];
    anchors = new double[room];
    sampled = new long[room];
    left = new long[room];
  }

  static Verdict parse(byte[] data, int more) {
    if (data == null) {
      return new Verdict(more);
    }
    ByteBuffer buffer = ByteBuffer.wrap(data);
    Verdict verdict = new Verdict((data.length - 2 * Long.BYTES) / SIZE + more);
    verdict.sampledAtUs = buffer.getLong();
    verdict.leftUs = buffer.getLong();
    while (buffer.hasRemaining()) {
      int at = verdict.count++;
      verdict.axes[at] = buffer.getInt();
      verdict.anchors[at] = buffer.getDouble();
      verdict.sampled[at] = buffer.getLong();
      verdict.left[at] = buffer.getLong();
    }
    return verdict;
  }

  byte[] bytes() {
    ByteBuffer buffer = ByteBuffer.allocate(2 * Long.BYTES + count * SIZE);
    buffer.putLong(sampledAtUs).putLong(leftUs);
    for (int i = 0; i < count; i++) {
      buffer.putInt(axes[i]).putDouble(anchors[i]).putLong(sampled[i]).putLong(left[i]);
    }
    return buffer.array();
  }

  /** Judges the time up to the event, and hands it on, cut where seconds end. */
  void judge(Event event, Consumer<Span> to) {
    long at = event.sampledAtUs;
    Span span = new Span(event.count, at);
    for (int i = 0; i < event.count; i++) {
      judge(event.axes[i], event.positions[i], at, span);
    }
    if (at > sampledAtUs) {
      if (at - sampledAtUs <= MAX_GAP_US) {
        span.arm(sampledAtUs, leftUs > at - SETTLE_US);
      }
      sampledAtUs = at;
    }
    if (span.fromUs < at && span.fromUs / SECOND_US == (at - 1) / SECOND_US) { // mostly
      to.accept(span);
      return;
    }
    for (long from = span.fromUs; from < at; ) {
      long upto = Math.min((from / SECOND_US + 1) * SECOND_US, at);
      to.accept(span.cut(from, upto));
      from = upto;
    }
  }

  private void judge(int axis, double position, long at, Span span) {
    int i = 0;
    while (i < count && axes[i] != axis) {
      i++;
    }
    if (i == count) {
      axes[count++] = axis;
      left[i] = NEVER_US;
      anchors[i] = position;
      sampled[i] = at;
      return;
    }
    long gap = at - sampled[i];
    if (gap <= 0) {
      return;
    }
    if (gap > MAX_GAP_US) {
      anchors[i] = position;
      sampled[i] = at;
      return;
    }
    if (Math.abs(position - anchors[i]) > BAND) {
      anchors[i] = position;
      left[i] = at;
      leftUs = Math.max(leftUs, at);
    }
    span.axis(axis, sampled[i], left[i] > at - SETTLE_US);
    sampled[i] = at;
  }
}
