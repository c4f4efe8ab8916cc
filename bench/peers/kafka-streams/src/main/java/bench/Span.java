package bench;

/** Time up to `uptoUs` with its verdict, for the arm and each of its axes. */
final class Span {
  long fromUs;
  final long uptoUs;
  long armUs;
  boolean armMoves;
  int count;
  final int[] axes;
  final long[] us;
  final boolean[] moves;

  Span(int room, long uptoUs) {
    fromUs = this.uptoUs = uptoUs;
    axes = new int[room];
    us = new long[room];
    moves = new boolean[room];
  }

  void arm(long beforeUs, boolean moving) {
    fromUs = Math.min(fromUs, beforeUs);
    armUs = uptoUs - beforeUs;
    armMoves = moving;
  }

  void axis(int number, long beforeUs, boolean moving) {
    fromUs = Math.min(fromUs, beforeUs);
    axes[count] = number;
    us[count] = uptoUs - beforeUs;
    moves[count++] = moving;
  }

  /** What of it lies between two times. */
  Span cut(long from, long upto) {
    Span piece = new Span(count, upto);
    piece.fromUs = from;
    piece.armUs = overlap(armUs, from, upto);
    piece.armMoves = armMoves;
    for (int i = 0; i < count; i++) {
      piece.axes[i] = axes[i];
      piece.us[i] = overlap(us[i], from, upto);
      piece.moves[i] = moves[i];
    }
    piece.count = count;
    return piece;
  }

  private long overlap(long length, long from, long upto) {
    return Math.max(0, upto - Math.max(from, uptoUs - length));
  }
}
