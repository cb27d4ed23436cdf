# Forks, pipes, pattern matching, packing and a temporary file; leaves perl.txt.
use strict;
use warnings;
use File::Temp qw(tempfile);
use IPC::Open2;
use Socket;

my %seen;
$seen{$_}++ for "the cat and the hat and the bat" =~ /\b(\w+)\b/g;

my @sums;
for my $number (1 .. 3) {
    pipe(my $read, my $write) or die "pipe: $!";
    my $child = fork() // die "fork: $!";
    if ($child == 0) {
        close $read;
        print {$write} $number * $number;
        close $write;
        exit 0;
    }
    close $write;
    push @sums, scalar <$read>;
    waitpid $child, 0;
    die "child: $?" if $?;
}

my $sorter = open2(my $from, my $to, "sort", "-r");
print {$to} "$_\n" for qw(a c b);
close $to;
chomp(my @sorted = <$from>);
waitpid $sorter, 0;

socketpair(my $left, my $right, AF_UNIX, SOCK_STREAM, PF_UNSPEC) or die "socketpair: $!";
syswrite $left, pack("N", 42);
sysread $right, my $packed, 4;

my ($file, $name) = tempfile(UNLINK => 1);
print {$file} "temporary";
close $file;
die "tempfile" unless -s $name == 9;

open(my $result, ">", "perl.txt") or die "perl.txt: $!";
print {$result} join(" ", $seen{the}, @sums, @sorted, unpack("N", $packed)), "\n";
close $result;
