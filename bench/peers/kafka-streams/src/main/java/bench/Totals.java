package bench;

import java.nio.ByteBuffer;
import java.util.Arrays;

/** Microseconds of a window in which the arm, and each of its axes, moved or was still. */
final class Totals {
  private static final int SIZE = Integer.BYTES + 2 * Long.BYTES;

  long movingUs;
  long stillUs;
  private int count;
  private int[] axes;
  private long[] moving;
  private long[] still;

  Totals(int room) {
    axes = new int[room];
    moving = new long[room];
    still = new long[room];
  }

  static Totals parse(byte[] data) {
    ByteBuffer buffer = ByteBuffer.wrap(data);
    Totals totals = new Totals((data.length - 2 * Long.BYTES) / SIZE);
    totals.movingUs = buffer.getLong();
    totals.stillUs = buffer.getLong();
    while (buffer.hasRemaining()) {
      int at = totals.count++;
      totals.axes[at] = buffer.getInt();
      totals.moving[at] = buffer.getLong();
      totals.still[at] = buffer.getLong();
    }
    return totals;
  }

  byte[] bytes() {
    ByteBuffer buffer = ByteBuffer.allocate(2 * Long.BYTES + count * SIZE);
    buffer.putLong(movingUs).putLong(stillUs);
    for (int i = 0; i < count; i++) {
      buffer.putInt(axes[i]).putLong(moving[i]).putLong(still[i]);
    }
    return buffer.array();
  }

  Totals add(Span span) {
    if (span.armMoves) {
      movingUs += span.armUs;
    } else {
      stillUs += span.armUs;
    }
    for (int i = 0; i < span.count; i++) {
      int at = place(span.axes[i]);
      (span.moves[i] ? moving : still)[at] += span.us[i];
    }
    return this;
  }

  long axesMovingUs() {
    return Arrays.stream(moving).sum();
  }

  long axesStillUs() {
    return Arrays.stream(still).sum();
  }

  private int place(int axis) {
    int at = 0;
    while (at < count && axes[at] != axis) {
      at++;
    }
    if (at == count) {
      if (count == axes.length) {
        axes = Arrays.copyOf(axes, 2 * count + 1);
        moving = Arrays.copyOf(moving, 2 * count + 1);
        still = Arrays.copyOf(still, 2 * count + 1);
      }
      axes[count++] = axis;
    }
    return at;
  }
}
