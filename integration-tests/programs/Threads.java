import java.nio.file.Files;
import java.nio.file.Path;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;
import java.util.stream.IntStream;

/** Threads, parallel streams, garbage and a child process; leaves java.txt. */
public final class Threads {
    public static void main(String[] words) throws Exception {
        AtomicLong sum = new AtomicLong();
        var pool = Executors.newFixedThreadPool(8);
        for (int number = 0; number < 100; number++) {
            int mine = number;
            pool.submit(() -> sum.addAndGet(mine));
        }
        pool.shutdown();
        pool.awaitTermination(1, TimeUnit.MINUTES);
        long squares = IntStream.range(0, 1000).parallel().mapToLong(n -> (long) n * n).sum();
        for (int round = 0; round < 50; round++) {
            byte[] garbage = new byte[8 << 20];
            garbage[round] = 1;
        }
        System.gc();
        Process child = new ProcessBuilder("/bin/echo", "child").start();
        String said = new String(child.getInputStream().readAllBytes());
        child.waitFor();
        Files.writeString(Path.of("java.txt"), sum.get() + " " + squares + " " + said);
    }
}
