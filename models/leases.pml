// SPDX-License-Identifier: Apache-2.0
/*
 * The leases of one volume in a shared pool: a delta (host) lease for each host, and the Paxos lease.
 *
 * Hosts share nothing but sectors. A sector is read or written whole, in one step; a write may also go "late":
 * it lands at any later step, or never, and its writer may be dead by then, or write something else meanwhile.
 * Time is an order of events, not a number: see README.md. What is on by default is what Holdfast does; each
 * -D below takes one rule away, or puts sanlock's way in its place. check.py knows which of them must fail.
 *
 *   HOSTS N                2 or 3
 *   LATES N, CRASHES N     how many writes go late, how many crashes there are, over all hosts
 *   LVER_MAX N             no ballot for a version beyond it
 *   ROUND_MAX N            no ballot number beyond that many rounds
 */
#ifndef HOSTS
#define HOSTS 2
#endif
#ifndef LATES
#define LATES 1
#endif
#ifndef CRASHES
#define CRASHES 1
#endif
#ifndef LAPSES
#define LAPSES 2
#endif
#ifndef LVER_MAX
#define LVER_MAX 3
#endif
#ifndef ROUND_MAX
#define ROUND_MAX 5
#endif
#ifndef GEN_MAX
#define GEN_MAX 3
#endif

#define SLOTS (HOSTS + 1)             /* host ids count from 1; index 0 is never used */
#define MBAL_MAX (SLOTS * ROUND_MAX - 1)  /* a ballot number is round * SLOTS + host id */

/* What is on storage. */
typedef Leader { byte lver; byte owner; byte gen; bit free; byte writer }
typedef Dblock { byte lver; byte mbal; byte bal; byte inp; byte inp2; bit released }
typedef Delta { byte gen; bit free }
Leader leader;
Dblock dblock[SLOTS];
Delta delta[SLOTS];

/* A write that is still on its way. The fields of all three records, by position. */
#define NONE 0
#define LEADER 1
#define DBLOCK 2
#define DELTA 3
typedef Late { byte kind; byte a; byte b; byte c; byte d; byte e; bit f }
Late late[SLOTS];
bit orphan[SLOTS];  /* its writer crashed: nobody waits for it */

/* What a host has in memory, as far as more than one of its processes looks at it. */
bit up[SLOTS];      /* it has its host lease and does things */
byte gen[SLOTS];    /* the generation it goes by */
byte own[SLOTS];    /* the version of the volume's lease that it holds; 0: none */
bit open[SLOTS];    /* the fence: it acknowledges */
bit ballot[SLOTS];  /* it is in a ballot, */
bit lapsed[SLOTS];  /* and its deadline went by since that began */
bit expelled[SLOTS];  /* its host lease is not what it wrote: it stops */
bit forgot[SLOTS];  /* the state file does not tell a generation to go on with */

/* Clocks. */
bit valid[SLOTS];   /* the host is before its deadline */
bit stale[SLOTS];   /* who reads the host's delta lease now has seen no change for host_dead */

byte lates = LATES;
byte crashes = CRASHES;
byte lapses = LAPSES;

/* What the properties are about: history that nobody in the model looks at. */
byte granted;         /* the highest version that anybody was granted */
byte chosen[LVER_MAX + 1];  /* owner * 16 + generation, of the first who learned a result */

#ifdef ACK_PAST_DEADLINE
#define ACKS(h) (own[h] != 0)
#else
#define ACKS(h) (own[h] != 0 && open[h])
#endif

inline check_one_writer() {
  d_step {
    assert(!ACKS(h) || h == 1 || !ACKS(1));
    assert(!ACKS(h) || h == 2 || !ACKS(2));
#if HOSTS == 3
    assert(!ACKS(h) || h == 3 || !ACKS(3));
#endif
  }
}

/* All that learn who won a version learn the same. */
inline learn(version, owner_id, owner_gen) {
#ifdef AGREEMENT
  assert(chosen[version] == 0 || chosen[version] == owner_id * 16 + owner_gen);
  chosen[version] = owner_id * 16 + owner_gen
#else
  skip
#endif
}

/* ---- Writing. `ok` tells whether the write completed; one that went late did not. ---- */
#define MAY_GO_LATE(h) (lates > 0 && late[h].kind == NONE)

inline write_leader(w_lver, w_owner, w_gen, w_free) {
  if
  :: d_step { leader.lver = w_lver; leader.owner = w_owner; leader.gen = w_gen; leader.free = w_free;
       leader.writer = h; ok = 1 }
  :: d_step { MAY_GO_LATE(h) -> lates--; late[h].kind = LEADER; late[h].a = w_lver; late[h].b = w_owner;
       late[h].c = w_gen; late[h].f = w_free; ok = 0 }
  fi
}

inline write_dblock(w_lver, w_mbal, w_bal, w_inp, w_inp2, w_released) {
  if
  :: d_step { dblock[h].lver = w_lver; dblock[h].mbal = w_mbal; dblock[h].bal = w_bal; dblock[h].inp = w_inp;
       dblock[h].inp2 = w_inp2; dblock[h].released = w_released; ok = 1 }
  :: d_step { MAY_GO_LATE(h) -> lates--; late[h].kind = DBLOCK; late[h].a = w_lver; late[h].b = w_mbal;
       late[h].c = w_bal; late[h].d = w_inp; late[h].e = w_inp2; late[h].f = w_released; ok = 0 }
  fi
}

inline write_delta(w_gen, w_free) {
  if
  :: d_step { delta[h].gen = w_gen; delta[h].free = w_free; stale[h] = 0; ok = 1 }
  :: d_step { MAY_GO_LATE(h) -> lates--; late[h].kind = DELTA; late[h].a = w_gen; late[h].f = w_free; ok = 0 }
  fi
}

inline end_late() {
  d_step {
    late[h].kind = NONE; late[h].a = 0; late[h].b = 0; late[h].c = 0; late[h].d = 0; late[h].e = 0; late[h].f = 0;
    orphan[h] = 0
  }
}

/* Where late writes land. */
proctype Storage(byte h) {
  do
  :: d_step { late[h].kind == LEADER -> leader.lver = late[h].a; leader.owner = late[h].b; leader.gen = late[h].c;
       leader.free = late[h].f; leader.writer = h; end_late() }
  :: d_step { late[h].kind == DBLOCK -> dblock[h].lver = late[h].a; dblock[h].mbal = late[h].b;
       dblock[h].bal = late[h].c; dblock[h].inp = late[h].d; dblock[h].inp2 = late[h].e;
       dblock[h].released = late[h].f; end_late() }
  :: d_step { late[h].kind == DELTA -> delta[h].gen = late[h].a; delta[h].free = late[h].f; stale[h] = 0;
       end_late() }
  :: d_step { late[h].kind != NONE -> end_late() }
  od
}

/* Time goes by: the deadline of a host; then, not earlier, what its peers take for its death. */
proctype Clock(byte h) {
  do
  :: d_step { valid[h] && (!up[h] || lapses > 0) ->
       if :: up[h] -> lapses-- :: else fi;
       valid[h] = 0; open[h] = 0; lapsed[h] = ballot[h] }
#ifdef DEAD_TOO_EARLY
  :: d_step { !stale[h] && !delta[h].free && delta[h].gen != 0 -> stale[h] = 1 }
#else
  :: d_step { !valid[h] && !stale[h] && !delta[h].free && delta[h].gen != 0 -> stale[h] = 1 }
#endif
  od
}

/* Renewals. One that went late and lands is one that only its peers notice. */
proctype Keeper(byte h) {
  do
  :: atomic { up[h] && !expelled[h] && (late[h].kind != DELTA || orphan[h]) && !valid[h] ->
       if
       :: delta[h].gen == gen[h] && !delta[h].free ->
            stale[h] = 0;
            valid[h] = 1;
#ifdef RENEWAL_REOPENS
            if :: own[h] != 0 -> open[h] = 1; check_one_writer() :: else fi
#endif
#ifdef REREAD_REOPENS
            if
            :: own[h] != 0 && leader.lver == own[h] && leader.owner == h && leader.gen == gen[h] ->
                 open[h] = 1; check_one_writer()
            :: else
            fi
#endif
       :: else -> expelled[h] = 1; own[h] = 0; open[h] = 0
       fi
     }
  :: d_step { up[h] && !expelled[h] && MAY_GO_LATE(h) -> lates--; late[h].kind = DELTA; late[h].a = gen[h] }
  od
}

/* ---- A host: its Paxos lease, crashes and returns. ---- */
#define OR_CRASH :: d_step { crashes > 0 -> crashes-- }; goto crashed
#ifdef IN_FLIGHT_IGNORED
#define QUIET(h) true
#else
#define QUIET(h) (orphan[h] || (late[h].kind != LEADER && late[h].kind != DBLOCK))
#endif

/* What the leader, read again, says of the version that a ballot is about. */
#ifdef LEADER_NOT_READ_AGAIN
#define KNOWN(v) false
#define PASSED(v) false
#else
#define KNOWN(v) (leader.lver == v)
#define PASSED(v) (leader.lver > v)
#endif

/* A daemon starts only when no write of the one before it to the volume's lease is on its way. */
#ifdef PREDECESSOR_IGNORED
#define SETTLED(h) true
#else
#define SETTLED(h) (late[h].kind != LEADER && late[h].kind != DBLOCK)
#endif

/* The owner's own dblock says that it released, though somebody else wrote the leader for it. */
#ifdef RELEASED_OF_ANY_VERSION
#define OWNER_RELEASED (leader.writer != leader.owner && dblock[leader.owner].released)
#else
#define OWNER_RELEASED (leader.writer != leader.owner && dblock[leader.owner].released && \
                        dblock[leader.owner].lver >= leader.lver)
#endif

#ifdef FREE_OF_ANY_GENERATION
#define OWNER_FREE(o, g) (delta[o].free)
#else
#define OWNER_FREE(o, g) (delta[o].free && delta[o].gen >= g)
#endif
#define OWNER_NEWER(o, g) (!delta[o].free && delta[o].gen > g)

/*
 * The version to decide, and a ballot number above those seen for it. (sanlock counts on from one version to the
 * next; numbers are compared within a version only, so here they begin anew, which keeps them small.)
 */
inline choose_ballot() {
  d_step {
    next = leader.lver + 1; q = 1;
#ifndef LVER_OF_LEADER_ONLY
    do
    :: q < SLOTS ->
         if :: dblock[q].lver > next -> next = dblock[q].lver; ahead = 1 :: else fi;
         q++
    :: else -> break
    od;
    q = 1;
#endif
    mbal = 0;
    do
    :: q < SLOTS ->
         if :: dblock[q].lver == next && dblock[q].mbal > mbal -> mbal = dblock[q].mbal :: else fi;
         q++
    :: else -> break
    od;
    q = 0;
    if :: mbal == 0 -> mbal = h :: else -> mbal = (mbal / SLOTS) * SLOTS + SLOTS + h fi
  }
}

/* verdict: 0 go on, 1 a higher ballot, 2 a higher version, or not what we wrote */
inline look_at_dblocks() {
  verdict = 0; high = 0; q = 1;
  do
  :: q < SLOTS ->
       if
       :: dblock[q].lver < next
       :: dblock[q].lver > next -> verdict = 2
       :: else ->
            if :: dblock[q].mbal > mbal && verdict == 0 -> verdict = 1 :: else fi;
            if :: dblock[q].inp != 0 && dblock[q].bal > high ->
                    high = dblock[q].bal; see = dblock[q].inp; see2 = dblock[q].inp2
               :: else
            fi
       fi;
       q++
  :: else -> break
  od;
  q = 0
}

/* A win counts if this very acquisition proposed it, and the host lease held all the time since it began. */
#ifdef ADOPTED_IS_MINE
#define PROPOSED true
#else
#define PROPOSED mine
#endif
#ifdef LAPSE_DURING_BALLOT
#define IN_TIME(h) true
#else
#define IN_TIME(h) (valid[h] && !lapsed[h])
#endif
/* A daemon that starts again goes on with its generation while its host lease has not lapsed. */
#ifdef REJOIN_PAST_DEADLINE
#define UNBROKEN(h) true
#else
#define UNBROKEN(h) valid[h]
#endif

/* Outbid. The random pause before the next round is, for liveness, that one of them has a round undisturbed. */
#ifdef LIVENESS
#define NEXT_ROUND mbal = mbal + SLOTS; assert(mbal <= MBAL_MAX); trying[h] = 0; goto pause
#else
#define NEXT_ROUND mbal = mbal + SLOTS; if :: mbal > MBAL_MAX -> goto done :: else -> goto try fi
#endif

#ifdef LIVENESS
bit trying[SLOTS];
#define CLEAR_TRYING trying[h] = 0
#else
#define CLEAR_TRYING skip
#endif

#define CLEAR CLEAR_TRYING; next = 0; mbal = 0; inp = 0; inp2 = 0; mine = 0; ahead = 0; see = 0; see2 = 0; verdict = 0; \
  high = 0; ok = 0; was_owner = 0; was_gen = 0; lapsed[h] = 0; ballot[h] = 0

proctype Host(byte h) {
  byte next, mbal, inp, inp2, was_owner, was_gen;
  byte see, see2, verdict, high, q;
  bit mine, ahead, ok;

idle:
  atomic {
    CLEAR;
    if
    /* A host that has nothing wants the volume; one whose deadline went by wants to go on. */
    :: up[h] && !expelled[h] && valid[h] && QUIET(h) && (own[h] == 0 || !open[h]) ->
         /* It reads the leader and all dblocks. */
         ballot[h] = 1;
         choose_ballot();
         if
#ifdef LVER_REUSED
         :: leader.free && leader.owner == h && own[h] == 0 -> next = leader.lver; goto grant
#endif
         :: own[h] != 0 && (leader.lver != own[h] || leader.owner != h || leader.gen != gen[h] || leader.free ||
                            ahead) -> own[h] = 0; goto idle  /* lost */
         :: next > LVER_MAX || mbal > MBAL_MAX -> goto done
         :: else ->
              if
              :: ahead || leader.free || leader.lver == 0 || OWNER_RELEASED -> goto try
              :: leader.owner == h && leader.gen <= gen[h] -> goto try
              :: else -> was_owner = leader.owner; was_gen = leader.gen; goto judge
              fi
         fi
    :: up[h] && own[h] != 0 -> own[h] = 0; open[h] = 0; goto retract
    :: up[h] && own[h] == 0 && !expelled[h] && QUIET(h) && (late[h].kind == NONE || orphan[h]) && crashes > 0 ->
         crashes--; goto shutdown
    :: expelled[h] -> goto crashed
    OR_CRASH
    fi
  }

judge:
  /* The owner's delta lease, read after the leader. */
  atomic {
    if
    :: true ->
         if
         :: OWNER_FREE(was_owner, was_gen) || OWNER_NEWER(was_owner, was_gen) -> goto try
#ifdef TAKE_WITHOUT_WAITING
         :: else -> goto try
#else
         :: stale[was_owner] && !delta[was_owner].free -> goto try
         :: else -> goto idle
#endif
         fi
    OR_CRASH
    fi
  }

#ifdef LIVENESS
pause:
  atomic {
    if
    :: !trying[3 - h]
    OR_CRASH
    fi
  }
#endif

try:
  atomic {
    was_owner = 0; was_gen = 0; ahead = 0; see = 0; see2 = 0; inp = 0; inp2 = 0;
#ifdef LIVENESS
    trying[h] = 1;
#endif
    if
    :: true ->
         if
         :: KNOWN(next) ->
              learn(next, leader.owner, leader.gen);
              inp = leader.owner; inp2 = leader.gen; goto result
         :: PASSED(next) -> goto idle
         :: else
         fi
    OR_CRASH
    fi
  }

phase1:
  atomic {
    if
    :: true ->
#ifdef PHASE1_ZEROES
       write_dblock(next, mbal, 0, 0, 0, 0)
#else
       if
       :: dblock[h].lver == next ->
            see = dblock[h].bal; inp = dblock[h].inp; inp2 = dblock[h].inp2;
            write_dblock(next, mbal, see, inp, inp2, 0);
            see = 0; inp = 0; inp2 = 0
       :: else -> write_dblock(next, mbal, 0, 0, 0, 0)
       fi
#endif
       ;
       if :: !ok -> goto failed :: else fi
    OR_CRASH
    fi
  }

read1:
  atomic {
    if
    :: true ->
       look_at_dblocks();
#ifdef PHASE1_NOT_READ
       verdict = 0; high = 0; see = 0; see2 = 0;
#endif
       if
       :: verdict == 1 -> verdict = 0; high = 0; see = 0; see2 = 0; NEXT_ROUND
       :: verdict == 2 -> goto idle
       :: else
       fi;
       if
       :: high != 0 -> inp = see; inp2 = see2
       :: else -> inp = h; inp2 = gen[h]; mine = 1
       fi;
       high = 0; see = 0; see2 = 0
    OR_CRASH
    fi
  }

phase2:
  atomic {
    if
    :: true ->
       write_dblock(next, mbal, mbal, inp, inp2, 0);
       if :: !ok -> goto failed :: else fi
    OR_CRASH
    fi
  }

read2:
  atomic {
    if
    :: true ->
       look_at_dblocks();
       high = 0; see = 0; see2 = 0;
       if
       :: verdict == 1 -> verdict = 0; NEXT_ROUND
       :: verdict == 2 -> goto idle
       :: else
       fi
    OR_CRASH
    fi
  }

#ifndef COMMITTED_UNREAD
reread:
  atomic {
    if
    :: true ->
         if
         :: KNOWN(next) ->
              learn(next, leader.owner, leader.gen);
              inp = leader.owner; inp2 = leader.gen; goto result
         :: PASSED(next) -> goto idle
         :: else
         fi
    OR_CRASH
    fi
  }
#endif

commit:
  atomic {
    if
    :: true ->
       learn(next, inp, inp2);
       write_leader(next, inp, inp2, 0);
       if :: !ok -> goto failed :: else fi
    OR_CRASH
    fi
  }

result:
  /* Ours, if leader and own dblock still say so, and no other dblock something else. */
  atomic {
    if
    :: true ->
         if
         :: inp != h || inp2 != gen[h] || !PROPOSED -> goto idle
#ifndef NOT_VERIFIED
         :: else ->
            d_step {
              verdict = (leader.lver != next || leader.owner != h || leader.gen != inp2 ||
                         dblock[h].lver != next || dblock[h].inp != h || dblock[h].inp2 != inp2);
              q = 1;
              do
              :: q < SLOTS ->
                   if
                   :: dblock[q].lver > next -> verdict = 1
                   :: dblock[q].lver == next && dblock[q].inp != 0 &&
                      (dblock[q].inp != h || dblock[q].inp2 != inp2) -> verdict = 1
                   :: else
                   fi;
                   q++
              :: else -> break
              od;
              q = 0
            }
            if :: verdict != 0 -> goto idle :: else fi
#else
         :: else
#endif
         fi
    OR_CRASH
    fi
  }

grant:
  atomic {
    if
    :: true ->
         if
         :: IN_TIME(h) && !expelled[h] ->
              /* Each ownership has a higher version than all before it. */
              assert(next > granted);
              granted = next;
              own[h] = next;
              open[h] = valid[h];
              check_one_writer()
         :: else
         fi
    OR_CRASH
    fi;
    goto idle
  }

failed:
  /* A write that did not complete: it is waited for, and then what it may have said is retracted. */
  atomic {
    if
    :: QUIET(h) -> goto retract
    OR_CRASH
    fi
  }

retract:
  atomic {
    if
    :: true ->
       write_dblock(dblock[h].lver, dblock[h].mbal, dblock[h].bal, dblock[h].inp, dblock[h].inp2, 1);
       if :: !ok -> goto failed :: else fi
    OR_CRASH
    fi
  }

release_read:
  atomic {
    if
    :: true ->
         if
         :: leader.writer != h || leader.owner != h || leader.gen != gen[h] || leader.free -> goto idle
         :: else -> CLEAR; next = leader.lver
         fi
    OR_CRASH
    fi
  }

release_write:
  atomic {
    if
    :: true ->
       write_leader(next, h, gen[h], 1);
       if :: !ok -> goto failed :: else fi;
       goto idle
    OR_CRASH
    fi
  }

shutdown:
  /* The host lease is given back. What the state file tells is forgotten first. */
  atomic {
#ifndef GENERATION_NOT_FORGOTTEN
    forgot[h] = 1;
#endif
    write_delta(delta[h].gen, 1)
  }

crashed:
  atomic { CLEAR; up[h] = 0; own[h] = 0; open[h] = 0; orphan[h] = (late[h].kind != NONE) }

down:
  atomic {
    if
    :: SETTLED(h)
    fi;
    if
    :: !expelled[h] && !forgot[h] && delta[h].gen == gen[h] && !delta[h].free && UNBROKEN(h) ->
         stale[h] = 0; valid[h] = 1; up[h] = 1; goto idle
    :: delta[h].gen < GEN_MAX ->
         gen[h] = delta[h].gen + 1; expelled[h] = 0; forgot[h] = 1;
         write_delta(gen[h], 0);
         if :: !ok -> goto crashed :: else -> valid[h] = 1 fi
    :: delta[h].gen >= GEN_MAX -> goto done
    fi
  }

rejoin:
  /* After 2N. */
  atomic {
    if
    :: true ->
         if
         :: delta[h].gen == gen[h] && !delta[h].free && valid[h] -> forgot[h] = 0; up[h] = 1; goto idle
         :: else -> goto crashed
         fi
    OR_CRASH
    fi
  }

done:
  atomic { CLEAR; own[h] = 0; open[h] = 0 }
}

init {
  atomic {
    byte h = 1;
    do
    :: h < SLOTS ->
         delta[h].gen = 1; gen[h] = 1; valid[h] = 1; up[h] = 1;
#ifdef OWNED
         if
         :: h == HOSTS ->
              leader.lver = 1; leader.owner = h; leader.gen = 1; leader.writer = h; own[h] = 1; open[h] = 1;
              dblock[h].lver = 1; dblock[h].mbal = h; dblock[h].bal = h; dblock[h].inp = h; dblock[h].inp2 = 1;
              granted = 1; chosen[1] = h * 16 + 1
         :: else
         fi;
#endif
         run Host(h); run Clock(h); run Keeper(h); run Storage(h);
         h++
    :: else -> break
    od;
    h = 0
  }
}

#ifdef LIVENESS
/*
 * The lease never gets stuck: it is granted again (and again), or at least decided up to the last version of the
 * model. (A version may be lost: its winner lapsed meanwhile, or was not sure of it. Two that are slow in turn can lose
 * one after the other.)
 */
ltl obtained { <> (granted >= LIVENESS || leader.lver == LVER_MAX) }
#endif
